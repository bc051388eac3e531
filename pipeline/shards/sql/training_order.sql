-- Every kept sample's place in the training shards: a shuffle that depends on nothing but seed and ids.
WITH located AS (
    -- Indexes of earlier versions have no crc32.
    SELECT NULL::UINTEGER AS crc32 WHERE false
    UNION ALL BY NAME
    SELECT *, parse_filename(filename, true) AS shard
    FROM read_parquet($index, filename = true, hive_partitioning = false, union_by_name = true)
),
shuffled AS (
    SELECT
        sample_id, located.shard AS source_shard, "offset", size, crc32, cluster_id, caption, image_embedding, text_embedding,
        row_number() OVER (ORDER BY md5_number_lower(concat($seed, ':', sample_id)), sample_id) - 1 AS place
    FROM read_parquet($pairs, hive_partitioning = false) AS pairs
    JOIN located USING (sample_id)
    JOIN read_parquet($assignments, hive_partitioning = false) AS assignments USING (sample_id)
    JOIN read_parquet($embeddings, hive_partitioning = false) AS embeddings USING (sample_id)
)
SELECT sample_id, source_shard, "offset", size, crc32, cluster_id, caption, image_embedding, text_embedding
FROM shuffled
ORDER BY place
