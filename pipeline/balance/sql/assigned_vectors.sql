-- Every image with the one that stands for it, and the embeddings of both.
SELECT
    assigned.image_id, center_id, gone.image_embedding AS image_embedding, stays.image_embedding AS center_embedding
FROM assigned
JOIN embeddings AS gone ON gone.image_id = assigned.image_id
JOIN embeddings AS stays ON stays.image_id = center_id
