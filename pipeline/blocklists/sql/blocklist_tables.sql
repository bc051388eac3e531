CREATE OR REPLACE TEMP TABLE listed_ids (id BIGINT);
CREATE OR REPLACE TEMP TABLE listed_texts (kind VARCHAR, entry VARCHAR);
-- What the entries of each kind fit: an entry in the form in which it was listed, and an image.
CREATE OR REPLACE TEMP TABLE matches (kind VARCHAR, entry VARCHAR, matched VARCHAR, image_id BIGINT);
CREATE OR REPLACE TEMP TABLE blocked (image_id BIGINT, matched VARCHAR);
