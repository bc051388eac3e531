-- How often each outcome occurred, commonest first.
SELECT status, coalesce(error, '') AS error, count(*) AS pairs
FROM read_parquet($images)
GROUP BY ALL
ORDER BY pairs DESC, status, error
LIMIT 20
