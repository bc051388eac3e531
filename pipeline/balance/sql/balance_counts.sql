SELECT
    count(*) AS samples,
    count(*) FILTER (kept) AS kept,
    count(*) FILTER (NOT kept) AS removed,
    count(*) FILTER (image_id = group_id AND group_size > 1) AS groups,
    coalesce(max(group_size), 0) AS largest_group,
    coalesce(max(group_size) / count(*), 0) AS largest_group_share,
    coalesce(max(distance_to_center), 0)::DOUBLE AS max_distance_to_center
FROM read_parquet($groups, hive_partitioning = false)
