-- What each of $steps + 1 thresholds up to $max_distance would remove: an edge of the forest joins two groups, so every
-- edge within the threshold removes one image.
WITH thresholds AS (SELECT $max_distance * step / $steps AS threshold FROM range($steps + 1) AS steps(step))
SELECT
    threshold,
    count(distance) AS removed,
    $samples - count(distance) AS kept,
    count(distance) / $samples AS removal_rate
FROM thresholds LEFT JOIN read_parquet($forest) ON distance <= threshold
GROUP BY threshold
ORDER BY threshold
