-- What each of $steps + 1 thresholds up to $max_distance would remove, each row of removals being one image.
WITH thresholds AS (
    SELECT step, $max_distance::DOUBLE * step / $steps AS threshold FROM range($steps + 1) AS steps(step)
),
guessed AS (
    SELECT distance, ceil(distance::DOUBLE * $steps / $max_distance)::BIGINT AS step FROM removals
),
-- The first step whose threshold, as a FLOAT, reaches the distance. The guess may be one off where it was rounded.
counted AS (
    SELECT
        CASE
            WHEN distance > ($max_distance::DOUBLE * step / $steps)::FLOAT THEN step + 1
            WHEN step > 0 AND distance <= ($max_distance::DOUBLE * (step - 1) / $steps)::FLOAT THEN step - 1
            ELSE step
        END AS step,
        count(*) AS images
    FROM guessed
    GROUP BY ALL
),
summed AS (
    SELECT threshold, (sum(coalesce(images, 0)) OVER (ORDER BY step))::BIGINT AS removed
    FROM thresholds LEFT JOIN counted USING (step)
)
SELECT threshold, removed, $samples - removed AS kept, removed / $samples AS removal_rate
FROM summed
ORDER BY threshold
