SELECT
    count(*) AS rows,
    count(*) - count(sample_id) AS without_id,
    count(sample_id) - count(DISTINCT sample_id) AS repeated
FROM embeddings
