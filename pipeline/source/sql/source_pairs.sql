-- Two different images, or pairs, with one id: the first by name (and caption) keeps it, the others are minted again with
-- a salt. Mostly there are none, and these tables empty.
CREATE OR REPLACE TEMP TABLE image_places AS
SELECT name, row_number() OVER (PARTITION BY first_image_id ORDER BY name) AS image_place
FROM (
    SELECT DISTINCT first_image_id, name FROM usable
    WHERE first_image_id IN (SELECT first_image_id FROM usable GROUP BY first_image_id HAVING min(name) <> max(name))
);

CREATE OR REPLACE TEMP TABLE pair_places AS
SELECT name, caption, row_number() OVER (PARTITION BY first_id ORDER BY name, caption) AS place
FROM usable
WHERE first_id IN (SELECT first_id FROM usable GROUP BY first_id HAVING count(*) > 1);

CREATE OR REPLACE TEMP TABLE pairs AS
SELECT usable.* EXCLUDE (first_image_id, first_id, occurrences, has_url),
       CASE WHEN place > 1 THEN mint(name, caption, concat(chr(31), place)) ELSE first_id END AS sample_id,
       CASE WHEN image_place > 1 THEN mint_image(name, concat(chr(31), image_place)) ELSE first_image_id END AS image_id,
       CASE WHEN has_url THEN name END AS url
FROM usable LEFT JOIN image_places USING (name) LEFT JOIN pair_places USING (name, caption);
