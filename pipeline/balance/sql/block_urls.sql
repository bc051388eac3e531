-- Which images have a listed URL. One URL may stand in many pairs, with other captions.
INSERT INTO matched_urls
SELECT url, image_id
FROM (SELECT DISTINCT image_id, trim(url) AS url FROM facts) AS named
SEMI JOIN listed_urls USING (url)
SEMI JOIN embeddings USING (image_id)
