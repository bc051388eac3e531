-- Every kept sample's place in the training shards: a shuffle that depends on nothing but seed and ids.
WITH located AS (
    SELECT sample_id, parse_filename(filename, true) AS shard, "offset", size
    FROM read_parquet($index, filename = true, hive_partitioning = false)
),
shuffled AS (
    SELECT
        sample_id, located.shard AS source_shard, "offset", size, cluster_id, caption, image_embedding, text_embedding,
        row_number() OVER (ORDER BY md5_number_lower(concat($seed, ':', sample_id)), sample_id) - 1 AS place
    FROM read_parquet($pairs, hive_partitioning = false) AS pairs
    JOIN located USING (sample_id)
    JOIN read_parquet($assignments, hive_partitioning = false) AS assignments USING (sample_id)
    JOIN read_parquet($embeddings, hive_partitioning = false) AS embeddings USING (sample_id)
)
SELECT sample_id, source_shard, "offset", size, cluster_id, caption, image_embedding, text_embedding
FROM shuffled
ORDER BY place
