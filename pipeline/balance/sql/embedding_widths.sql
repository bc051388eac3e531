SELECT
    count(*) FILTER (image_embedding IS NULL OR len(list_filter(image_embedding, lambda value: value IS NULL)) > 0)
        AS nulls,
    min(len(image_embedding)) AS narrowest,
    max(len(image_embedding)) AS widest
FROM read_parquet($paths, hive_partitioning = false)
