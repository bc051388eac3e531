-- All that is known of a pair beside its embeddings; {attributes} and {scores} are tables that may have no columns.
CREATE OR REPLACE TEMP VIEW facts AS
SELECT
    pairs.sample_id, pairs.image_id, named.url, named.caption, images.* EXCLUDE (image_id, url),
    pairs.similarity AS image_text_similarity,
    attributes.* EXCLUDE (sample_id, image_id), scores.* EXCLUDE (image_id)
FROM pairs
JOIN named USING (sample_id)
JOIN images ON images.image_id = pairs.image_id
LEFT JOIN attributes ON attributes.sample_id = pairs.sample_id
LEFT JOIN scores ON scores.image_id = pairs.image_id
