SELECT id_a, id_b, distance
FROM read_parquet($tiles, hive_partitioning = false)
ORDER BY id_a, id_b
