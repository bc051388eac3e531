-- A pair that is listed blocks its image, and with it all captions.
INSERT INTO matched_ids
SELECT id, image_id FROM listed_ids JOIN pairs ON image_id = id
UNION
SELECT id, image_id FROM listed_ids JOIN pairs ON sample_id = id;

INSERT INTO blocked
SELECT image_id, CASE WHEN bool_or(by_id) THEN 'id' ELSE 'url' END AS matched
FROM (
    SELECT image_id, true AS by_id FROM matched_ids
    UNION ALL
    SELECT image_id, false AS by_id FROM matched_urls
)
GROUP BY image_id
