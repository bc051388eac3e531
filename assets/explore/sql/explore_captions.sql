-- The first caption of each of these images, no longer than a view shows.
SELECT image_id, arg_min(left(caption, $longest), sample_id) AS caption
FROM source_pairs
WHERE image_id IN (SELECT unnest($images::BIGINT[])) AND caption IS NOT NULL
GROUP BY image_id
