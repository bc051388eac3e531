-- The weight of each training image's cluster, which is registered as by_cluster.
WITH assigned AS (SELECT image_id, cluster_id FROM read_parquet($assignments, hive_partitioning = false))
SELECT parse_filename(filename, true) AS shard, image_id, weight
FROM read_parquet($index, filename = true, hive_partitioning = false, union_by_name = true)
LEFT JOIN assigned USING (image_id)
LEFT JOIN by_cluster USING (cluster_id)
ORDER BY shard, image_id
