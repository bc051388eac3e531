CREATE OR REPLACE TEMP TABLE similarities (sample_id BIGINT, similarity FLOAT)
