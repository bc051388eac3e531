-- Embeddings of the groups that are looked at, group after group.
SELECT component, image_id, image_embedding
FROM members JOIN looked_at USING (image_id)
ORDER BY component, image_id
