SELECT
    (SELECT count(*) FROM read_parquet($pairs, hive_partitioning = false) AS pairs ANTI JOIN read_parquet($images, hive_partitioning = false) AS images USING (image_id)) AS without_status,
    count(*) FILTER (status = 'success') AS downloaded,
    count(*) FILTER (status = 'success') / count(*) AS success_rate
FROM read_parquet($images, hive_partitioning = false)
