-- Pairs whose caption has all the words, in small letters; of an image one row.
SELECT image_id, arg_min(left(caption, $longest), sample_id) AS caption
FROM source_pairs
WHERE len(list_filter($words::VARCHAR[], lambda word: NOT contains(lower(caption), word))) = 0
GROUP BY image_id
ORDER BY image_id
LIMIT $count
