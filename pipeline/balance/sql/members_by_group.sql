-- Embeddings of all members of groups, group after group: DuckDB sorts them on disk where memory will not do.
SELECT component, sample_id, image_embedding
FROM embeddings JOIN components USING (sample_id)
ORDER BY component, sample_id
