-- Every member of a group but the first, and the first, which stands for it.
CREATE OR REPLACE TEMP TABLE assigned AS
WITH firsts AS (
    SELECT centers.center_id AS label, arg_min(image_id, place) AS center_id
    FROM centers JOIN priorities USING (image_id) GROUP BY ALL
)
SELECT centers.image_id, firsts.center_id
FROM centers JOIN firsts ON firsts.label = centers.center_id
WHERE centers.image_id <> firsts.center_id
