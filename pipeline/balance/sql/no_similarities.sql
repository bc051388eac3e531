CREATE OR REPLACE TEMP TABLE pairs AS SELECT image_id AS sample_id, image_id, NULL::FLOAT AS similarity FROM embeddings
