-- The images that k-means is fitted on, in an order that depends on nothing but seed and ids.
WITH chosen AS (
    SELECT image_id, random_place($seed, image_id) AS place
    FROM embedded ORDER BY place, image_id LIMIT $images
)
SELECT image_embedding FROM embeddings JOIN chosen USING (image_id) ORDER BY place, image_id
