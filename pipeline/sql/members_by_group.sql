-- Embeddings of all members of groups, group after group: DuckDB sorts them on disk where memory will not do.
SELECT members.component, sample_id, image_embedding
FROM read_parquet($embeddings) AS embeddings JOIN members USING (sample_id)
ORDER BY members.component, sample_id
