WITH ranked AS (
    SELECT loss, percent_rank() OVER (ORDER BY step) AS place FROM read_parquet($metrics, hive_partitioning = false)
)
SELECT avg(loss) FILTER (place <= 0.1) AS first_loss, avg(loss) FILTER (place >= 0.9) AS last_loss FROM ranked
