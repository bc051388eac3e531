-- One URL, or the same bytes, may stand in many pairs.
INSERT INTO matches
SELECT DISTINCT '{kind}' AS kind, entry, '{kind}' AS matched, image_id
FROM (SELECT {value} AS entry, image_id FROM {relation}) AS known
SEMI JOIN (SELECT entry FROM listed_texts WHERE kind = '{kind}') AS listed USING (entry)
