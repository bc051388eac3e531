-- Zero-shot top-1 after the last step, the mean over data sets, by what was trained: its mean and spread over seeds.
WITH cells AS (
    SELECT NULL::VARCHAR AS axis, NULL::BIGINT AS step WHERE false
    UNION ALL BY NAME
    FROM read_parquet($ablation, hive_partitioning = false)
),
seeds AS (
    SELECT coalesce(axis, 'steps') AS axis, data, losses, steps, seed, avg(value) AS value
    FROM cells
    WHERE task = 'zero_shot' AND metric = 'top1' AND coalesce(step, steps) = steps
    GROUP BY ALL
)
SELECT axis, data, losses, steps, avg(value) AS mean, coalesce(stddev_samp(value), 0) AS spread, count(*) AS seeds
FROM seeds
GROUP BY ALL
ORDER BY axis, losses, data, steps
