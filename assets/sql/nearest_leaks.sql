-- The $count nearest pairs of a test image and a training image, and where the latter lies.
SELECT dataset, leaks.key, distance, shard, "offset", size, crc32, tar
FROM read_parquet($leaks, hive_partitioning = false) AS leaks
JOIN read_parquet($images, hive_partitioning = false) AS images USING (image_id)
JOIN (
    SELECT NULL::UINTEGER AS crc32, NULL::VARCHAR AS tar WHERE false
    UNION ALL BY NAME
    FROM read_parquet($index, hive_partitioning = false, union_by_name = true)
) AS located USING (image_id)
ORDER BY distance, dataset, leaks.key, leaks.image_id
LIMIT $count
