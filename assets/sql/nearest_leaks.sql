-- The $count nearest pairs of a test image and a training image, and where the latter lies.
SELECT dataset, leaks.key, distance, shard, "offset", size
FROM read_parquet($leaks, hive_partitioning = false) AS leaks
JOIN read_parquet($images, hive_partitioning = false) AS images USING (image_id)
JOIN read_parquet($index, hive_partitioning = false) AS located
    ON located.image_id = images.image_id AND located.key = images.key
ORDER BY distance, dataset, leaks.key, leaks.image_id
LIMIT $count
