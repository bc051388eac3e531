-- One row per image that is not blocked. A member farther than $max_distance_to_centre from its centre is released: a
-- group of its own.
WITH members AS (
    SELECT
        sample_id,
        CASE WHEN distance_to_centre <= $max_distance_to_centre THEN centre_id ELSE sample_id END AS group_id,
        CASE WHEN distance_to_centre <= $max_distance_to_centre THEN distance_to_centre ELSE 0 END AS distance_to_centre
    FROM centres
),
sizes AS (SELECT group_id, count(*) AS group_size FROM members GROUP BY group_id),
everyone AS (
    SELECT sample_id, group_id, group_size, distance_to_centre FROM members JOIN sizes USING (group_id)
    UNION ALL
    SELECT sample_id, sample_id AS group_id, 1 AS group_size, 0 AS distance_to_centre
    FROM embedded ANTI JOIN centres USING (sample_id)
)
SELECT sample_id, group_id, group_size, distance_to_centre, sample_id = group_id AS kept
FROM everyone
ORDER BY sample_id
