-- Embeddings of all members of groups, group after group: DuckDB sorts them on disk where memory will not do.
SELECT component, image_id, image_embedding
FROM embeddings JOIN {components} USING (image_id)
ORDER BY component, image_id
