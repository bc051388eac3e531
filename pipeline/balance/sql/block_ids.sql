INSERT INTO blocked
SELECT sample_id, CASE WHEN bool_or(by_id) THEN 'sample_id' ELSE 'url' END AS matched
FROM (
    SELECT sample_id, true AS by_id FROM embeddings SEMI JOIN listed_ids USING (sample_id)
    UNION ALL
    SELECT sample_id, false AS by_id FROM matched_urls
)
GROUP BY sample_id
