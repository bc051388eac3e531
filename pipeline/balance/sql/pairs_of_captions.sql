-- Every caption of an image that has an embedding.
CREATE OR REPLACE TEMP TABLE pairs AS
SELECT sample_id, image_id, image_text_similarity AS similarity
FROM captions SEMI JOIN embeddings USING (image_id)
