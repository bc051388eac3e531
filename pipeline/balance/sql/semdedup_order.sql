-- Images cell after cell, in each the farthest from its centroid first.
SELECT cell, image_id, image_embedding
FROM embeddings JOIN cells USING (image_id) SEMI JOIN embedded USING (image_id)
ORDER BY cell, cells.distance DESC, image_id
