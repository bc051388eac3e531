-- How many pairs and images there were, and how many images were fetched.
SELECT
    (SELECT count(*) FROM read_parquet($source, hive_partitioning = false)) AS listed_pairs,
    count(*) AS listed_images,
    count(*) FILTER (status = 'success') AS downloaded
FROM read_parquet($images, hive_partitioning = false)
