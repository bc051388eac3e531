-- Why no pair of an image was used.
SELECT reason FROM (
    SELECT image_id, reason FROM filtered_pairs
    UNION ALL SELECT image_id, 'on the blocklist: ' || matched FROM blocked_pairs
) WHERE image_id = $image
LIMIT 1
