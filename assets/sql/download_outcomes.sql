-- How often each outcome occurred, commonest first. Reasons are shared by many samples; the details behind them are not,
-- so of those one example is shown.
SELECT status, coalesce(split_part(error, ': ', 1), '') AS reason, count(*) AS pairs, coalesce(min(error), '') AS example
FROM read_parquet($images, hive_partitioning = false)
GROUP BY ALL
ORDER BY pairs DESC, status, reason
LIMIT 40
