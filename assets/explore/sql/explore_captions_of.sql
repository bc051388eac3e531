-- All captions of one image, the first hundred of them.
SELECT left(caption, $longest) AS caption, length(caption) AS characters
FROM source_pairs
WHERE image_id = $image AND caption IS NOT NULL
ORDER BY sample_id
LIMIT 100
