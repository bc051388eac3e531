-- The images that k-means is fitted on, in an order that depends on nothing but seed and ids.
WITH chosen AS (
    SELECT sample_id, random_place($seed, sample_id) AS place
    FROM embedded ORDER BY place, sample_id LIMIT $images
)
SELECT image_embedding FROM embeddings JOIN chosen USING (sample_id) ORDER BY place, sample_id
