-- One row per image that is not blocked. A member farther than $max_distance_to_center from its center is released: a
-- group of its own. {kept} says which members of a group stay.
WITH members AS (
    SELECT
        image_id,
        CASE WHEN distance_to_center <= $max_distance_to_center THEN center_id ELSE image_id END AS group_id,
        CASE WHEN distance_to_center <= $max_distance_to_center THEN distance_to_center ELSE 0 END AS distance_to_center
    FROM centers
),
sizes AS (SELECT group_id, count(*) AS group_size FROM members GROUP BY group_id),
everyone AS (
    SELECT image_id, group_id, group_size, distance_to_center FROM members JOIN sizes USING (group_id)
    UNION ALL
    SELECT image_id, image_id AS group_id, 1 AS group_size, 0 AS distance_to_center
    FROM embedded ANTI JOIN centers USING (image_id)
)
SELECT image_id, group_id, group_size, distance_to_center, {kept} AS kept
FROM everyone{priorities}
ORDER BY image_id
