-- How many pairs and images of a table have which reason, in the column that is filled in, commonest first.
SELECT {column} AS reason, count(*) AS pairs, count(DISTINCT image_id) AS images
FROM read_parquet($pairs, hive_partitioning = false)
GROUP BY ALL
ORDER BY pairs DESC, reason
LIMIT $count
