SELECT sample_id, group_id AS kept_sample_id, distance_to_center
FROM read_parquet($groups, hive_partitioning = false)
WHERE NOT kept
ORDER BY sample_id
