-- Which kept image each removed one is dealt to; as many are removed as there are removals within the threshold.
CREATE OR REPLACE TEMP TABLE assigned AS
WITH shuffled AS (
    SELECT image_id, row_number() OVER (ORDER BY random_place($seed, image_id), image_id) - 1 AS place
    FROM embedded
),
kept AS (
    SELECT (SELECT count(*) FROM embedded) - (SELECT count(*) FROM removals WHERE distance <= $threshold::FLOAT) AS images
)
SELECT gone.image_id, stays.image_id AS center_id
FROM shuffled AS gone
JOIN kept ON gone.place >= kept.images
JOIN shuffled AS stays ON stays.place = (gone.place - kept.images) % kept.images
