-- The nearest pairs of a test image and a training image.
SELECT dataset, split, left(key, $longest) AS key, image_id, distance
FROM evaluation_leaks
ORDER BY distance, dataset, split, key, image_id
LIMIT $count
