-- Cosine of image and caption, where files of embeddings hold both: an image with one caption, whose id is the image's.
CREATE OR REPLACE TEMP TABLE pairs AS
SELECT image_id AS sample_id, image_id, list_inner_product(image_embedding, text_embedding)::FLOAT AS similarity
FROM embeddings
