SELECT count(*) AS pairs, count(DISTINCT image_id) AS images, count(*) - count(DISTINCT sample_id) AS repeated
FROM read_parquet($pairs, hive_partitioning = false)
