-- The kept pairs, with what is known of them.
SELECT
    sample_id, url, caption, shard, key, width, height, group_size, similarity AS image_text_similarity
FROM (SELECT sample_id, group_size FROM read_parquet($groups, hive_partitioning = false) WHERE kept) AS chosen
JOIN read_parquet($images, hive_partitioning = false) AS images USING (sample_id)
LEFT JOIN similarities USING (sample_id)
ORDER BY sample_id
