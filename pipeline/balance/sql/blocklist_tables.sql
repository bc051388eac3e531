CREATE TEMP TABLE listed_ids (id BIGINT);
CREATE TEMP TABLE listed_urls (url VARCHAR);
CREATE TEMP TABLE matched_ids (id BIGINT, image_id BIGINT, matched VARCHAR);
CREATE TEMP TABLE matched_urls (url VARCHAR, image_id BIGINT);
CREATE TEMP TABLE blocked (image_id BIGINT, matched VARCHAR);
