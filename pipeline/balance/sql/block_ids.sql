-- A pair that is listed blocks its image, and with it all captions.
INSERT INTO matched_ids
SELECT id, image_id, 'image_id' AS matched FROM listed_ids JOIN pairs ON image_id = id
UNION
SELECT id, image_id, 'sample_id' AS matched FROM listed_ids JOIN pairs ON sample_id = id;

INSERT INTO blocked
SELECT image_id, max_by(matched, place) AS matched
FROM (
    SELECT image_id, matched, CASE matched WHEN 'sample_id' THEN 3 ELSE 2 END AS place FROM matched_ids
    UNION ALL
    SELECT image_id, 'url' AS matched, 1 AS place FROM matched_urls
)
GROUP BY image_id
