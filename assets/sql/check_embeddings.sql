-- NaN compares above every number in DuckDB, so a vector that is not finite counts as not of unit length.
WITH downloaded AS (SELECT sample_id FROM read_parquet($images, hive_partitioning = false) WHERE status = 'success')
SELECT
    count(*) AS embeddings,
    count(*) FILTER (
        abs(list_inner_product(image_embedding, image_embedding) - 1) > 0.01
        OR abs(list_inner_product(text_embedding, text_embedding) - 1) > 0.01
    ) AS not_unit_length,
    (SELECT count(*) FROM downloaded ANTI JOIN read_parquet($embeddings, hive_partitioning = false) AS embeddings USING (sample_id)) AS without_embedding,
    (SELECT count(*) FROM read_parquet($embeddings, hive_partitioning = false) AS embeddings ANTI JOIN downloaded USING (sample_id)) AS without_image
FROM read_parquet($embeddings, hive_partitioning = false)
