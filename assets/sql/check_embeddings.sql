-- NaN compares above every number in DuckDB, so a vector that is not finite counts as not of unit length.
WITH downloaded AS (SELECT image_id FROM read_parquet($images, hive_partitioning = false) WHERE status = 'success')
SELECT
    count(*) AS embeddings,
    count(*) FILTER (abs(list_inner_product(image_embedding, image_embedding) - 1) > 0.01) + (
        SELECT count(*) FILTER (abs(list_inner_product(text_embedding, text_embedding) - 1) > 0.01)
        FROM read_parquet($captions, hive_partitioning = false)
    ) AS not_unit_length,
    (SELECT count(*) FROM downloaded ANTI JOIN read_parquet($embeddings, hive_partitioning = false) AS embeddings USING (image_id)) AS without_embedding,
    (SELECT count(*) FROM read_parquet($embeddings, hive_partitioning = false) AS embeddings ANTI JOIN downloaded USING (image_id)) AS without_image,
    (
        SELECT count(*) FROM read_parquet($pairs, hive_partitioning = false) AS pairs SEMI JOIN downloaded USING (image_id)
        ANTI JOIN read_parquet($captions, hive_partitioning = false) AS captions USING (sample_id)
    ) AS captions_without_embedding
FROM read_parquet($embeddings, hive_partitioning = false)
