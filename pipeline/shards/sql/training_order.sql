-- Every kept image's place in the training shards: a shuffle that depends on nothing but seed and ids.
WITH located AS (
    -- Indexes of other writers lack what may be null.
    SELECT NULL::UINTEGER AS crc32, NULL::VARCHAR AS tar WHERE false
    UNION ALL BY NAME
    SELECT *, parse_filename(filename, true) AS shard
    FROM read_parquet($index, filename = true, hive_partitioning = false, union_by_name = true)
),
captioned AS (
    SELECT
        pairs.image_id, list(sample_id ORDER BY sample_id) AS sample_ids, list(caption ORDER BY sample_id) AS captions,
        list(text_embedding ORDER BY sample_id) AS text_embeddings
    FROM (SELECT sample_id, image_id, caption FROM read_parquet($pairs, hive_partitioning = false)) AS pairs
    JOIN (SELECT sample_id, text_embedding FROM read_parquet($captions, hive_partitioning = false)) AS described
    USING (sample_id)
    GROUP BY pairs.image_id
),
shuffled AS (
    SELECT
        image_id, located.shard AS source_shard, tar, "offset", size, crc32, cluster_id, sample_ids, captions,
        image_embedding, text_embeddings,
        row_number() OVER (ORDER BY md5_number_lower(concat($seed, ':', image_id)), image_id) - 1 AS place
    FROM captioned
    JOIN located USING (image_id)
    JOIN read_parquet($assignments, hive_partitioning = false) AS assignments USING (image_id)
    JOIN read_parquet($embeddings, hive_partitioning = false) AS embeddings USING (image_id)
)
SELECT
    image_id, source_shard, tar, "offset", size, crc32, cluster_id, sample_ids, captions, image_embedding, text_embeddings
FROM shuffled
ORDER BY place
