-- Which images have a listed URL. One URL may stand in many pairs, with other captions.
INSERT INTO matched_urls
SELECT url, sample_id
FROM (SELECT sample_id, trim(url) AS url FROM images) AS named
SEMI JOIN listed_urls USING (url)
SEMI JOIN embeddings USING (sample_id)
