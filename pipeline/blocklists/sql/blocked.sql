-- An image that is listed in several ways says so by the most exact of them.
INSERT INTO blocked
SELECT image_id, min_by(matched, list_position(['sample_id', 'image_id', 'sha256', 'md5', 'url', 'host'], matched)) AS matched
FROM matches GROUP BY image_id
