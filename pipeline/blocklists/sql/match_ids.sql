-- An id may be that of an image or that of a pair, whatever its column was called.
INSERT INTO matches
SELECT DISTINCT 'id' AS kind, id::VARCHAR AS entry, matched, image_id
FROM (
    SELECT image_id AS id, 'image_id' AS matched, image_id FROM {relation}
    UNION ALL
    SELECT sample_id AS id, 'sample_id' AS matched, image_id FROM {relation}
) AS known
SEMI JOIN listed_ids USING (id)
