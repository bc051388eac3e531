-- Of each evaluation set how many test images are near to how many training images.
SELECT dataset, count(DISTINCT (split, key)) AS test_images, count(DISTINCT image_id) AS training_images, min(distance) AS nearest
FROM read_parquet($leaks, hive_partitioning = false)
GROUP BY dataset
ORDER BY dataset
