CREATE TEMP TABLE listed_ids (sample_id BIGINT);
CREATE TEMP TABLE listed_urls (url VARCHAR);
CREATE TEMP TABLE matched_urls (url VARCHAR, sample_id BIGINT);
CREATE TEMP TABLE blocked (sample_id BIGINT, matched VARCHAR);
