-- Where the images of pairs lie.
SELECT shard, located.*
FROM read_parquet($images, hive_partitioning = false) AS images
JOIN read_parquet($index, hive_partitioning = false) AS located USING (image_id)
WHERE images.image_id IN (SELECT unnest($shown::BIGINT[]))
