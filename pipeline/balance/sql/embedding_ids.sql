SELECT
    count(*) AS rows,
    count(*) - count(image_id) AS without_id,
    count(image_id) - count(DISTINCT image_id) AS repeated
FROM embeddings
