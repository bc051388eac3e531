-- Embeddings in the order of a dendrogram's leaves: DuckDB sorts them on disk where memory will not do.
SELECT image_embedding FROM embeddings JOIN leaves USING (image_id) ORDER BY place
