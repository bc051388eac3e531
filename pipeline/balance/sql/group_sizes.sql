-- How many groups there are of each size, single images included.
SELECT group_size AS size, count(*) AS groups
FROM read_parquet($groups, hive_partitioning = false)
WHERE image_id = group_id
GROUP BY group_size
ORDER BY group_size
