-- Mint sample_id, drop unusable rows and exact repeats. A URL of any scheme is kept: whether it may be fetched is for the
-- download to say, in the status of the sample. A pair that stands in several lists belongs to the first of
-- them, so that a list added at the end leaves the shards of earlier lists as they are.
CREATE OR REPLACE TEMP TABLE usable AS
SELECT trim(url) AS url, caption, min(list_index) AS list_index, count(*) AS occurrences
FROM source_rows
WHERE regexp_matches(trim(url), '^[a-z][a-z0-9+.-]*:\S', 'i') AND regexp_matches(caption, '\S')
GROUP BY ALL;

-- 64 bits of MD5 over url, unit separator, caption, shifted into BIGINT's range.
CREATE OR REPLACE TEMP MACRO mint(url, caption, salt) AS
    (md5_number_lower(concat(url, chr(31), caption, salt))::HUGEINT - 9223372036854775808)::BIGINT;

-- Two different pairs with one id: the first by (url, caption) keeps it, the others are minted again with a salt.
CREATE OR REPLACE TEMP TABLE minted AS
SELECT *, mint(url, caption, '') AS first_id,
       row_number() OVER (PARTITION BY mint(url, caption, '') ORDER BY url, caption) AS place
FROM usable;

CREATE OR REPLACE TEMP TABLE pairs AS
SELECT CASE WHEN place = 1 THEN first_id ELSE mint(url, caption, concat(chr(31), place)) END AS sample_id,
       url, caption, list_index, place
FROM minted;
