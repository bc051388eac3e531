-- Ends of edges that are no image's id.
SELECT count(*) AS ids, min(id) AS example
FROM (SELECT id_a AS id FROM forest UNION ALL SELECT id_b AS id FROM forest) AS ends
ANTI JOIN embeddings ON ends.id = embeddings.image_id
