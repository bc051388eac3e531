-- The distance of every image to the one that stands for it, and the latter itself.
SELECT assigned.image_id, center_id, list_distance(gone.image_embedding, stays.image_embedding) AS distance_to_center
FROM assigned
JOIN embeddings AS gone ON gone.image_id = assigned.image_id
JOIN embeddings AS stays ON stays.image_id = center_id
UNION ALL
SELECT DISTINCT center_id AS image_id, center_id, 0 AS distance_to_center FROM assigned
