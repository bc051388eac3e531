-- All captions, no longer than a view shows.
SELECT sample_id, image_id, left(caption, $longest) AS caption FROM source_pairs WHERE caption IS NOT NULL
