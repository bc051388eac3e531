-- Cosine of image and caption; projected before any join, so that no join carries vectors.
CREATE OR REPLACE TEMP TABLE similarities AS
SELECT sample_id, list_inner_product(image_embedding, text_embedding)::FLOAT AS similarity
FROM embeddings
