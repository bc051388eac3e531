-- How many images each training image stands for: those of its group, divided among the images that stay of it.
WITH kept AS (
    SELECT image_id, group_size / count(*) OVER (PARTITION BY group_id) AS weight
    FROM read_parquet($groups, hive_partitioning = false)
    WHERE kept
)
SELECT parse_filename(filename, true) AS shard, image_id, weight
FROM read_parquet($index, filename = true, hive_partitioning = false, union_by_name = true)
LEFT JOIN kept USING (image_id)
ORDER BY shard, image_id
