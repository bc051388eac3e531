-- The views of every kept image, in the order of training_order.sql, so that the two can be read side by side.
SELECT views.*
FROM read_parquet($views, hive_partitioning = false) AS views
SEMI JOIN read_parquet($pairs, hive_partitioning = false) AS pairs USING (image_id)
ORDER BY md5_number_lower(concat($seed, ':', image_id)), image_id, "view"
