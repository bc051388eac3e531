-- Removed images, and those that are farther than $farthest from the image that is kept for them.
SELECT
    count(*) AS removed,
    count(*) FILTER (distance_to_center > $farthest::FLOAT) AS too_far,
    coalesce(max(distance_to_center), 0)::DOUBLE AS max_distance
FROM read_parquet($groups, hive_partitioning = false)
WHERE NOT kept
