-- Images cell after cell, in each the farthest from its centroid first.
SELECT cell, sample_id, image_embedding
FROM embeddings JOIN cells USING (sample_id) SEMI JOIN embedded USING (sample_id)
ORDER BY cell, cells.distance DESC, sample_id
