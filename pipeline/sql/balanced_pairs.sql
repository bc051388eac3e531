-- The kept pairs, with what is known of them.
SELECT
    sample_id, url, caption, shard, key, width, height, group_size,
    list_inner_product(image_embedding, text_embedding) AS image_text_similarity
FROM read_parquet($groups) AS groups
JOIN read_parquet($images) AS images USING (sample_id)
JOIN read_parquet($embeddings) AS embeddings USING (sample_id)
WHERE kept
ORDER BY sample_id
