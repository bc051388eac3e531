-- Images and pairs of what was found: an image is where its name stands first, with the captions of all its samples. To
-- be put in: texts, each pair of `usable` once; limit.
CREATE OR REPLACE TEMP MACRO mint(text, salt) AS
    (md5_number_lower(concat(text, salt))::HUGEINT - 9223372036854775808)::BIGINT;

CREATE OR REPLACE TEMP TABLE named AS
SELECT name, arg_min({{'shard': shard, 'number': number}}, place) AS lies, count(*) AS samples,
       mint(name, '') AS first_id
FROM (SELECT name, shard, number, shard::BIGINT * 4294967296 + number AS place FROM usable)
GROUP BY name;

-- Two names with one id: the first keeps it, the others are minted again with a salt.
CREATE OR REPLACE TEMP TABLE own AS
SELECT * EXCLUDE (first_id), CASE WHEN repeat = 1 THEN first_id ELSE mint(name, concat(chr(31), repeat)) END AS image_id
FROM (SELECT *, row_number() OVER (PARTITION BY first_id ORDER BY name) AS repeat FROM named)
ORDER BY image_id {limit};

CREATE OR REPLACE TEMP TABLE pairs AS
WITH texts AS (
    {texts}
), minted AS (
    SELECT *, mint(concat(name, chr(31), caption), '') AS first_id FROM texts JOIN own USING (name)
)
SELECT CASE WHEN pair_repeat = 1 THEN first_id
            ELSE mint(concat(name, chr(31), caption), concat(chr(31), pair_repeat)) END AS sample_id,
       image_id, CASE WHEN name NOT LIKE 'sha256:%' THEN name END AS url, caption, lies.shard AS shard, pair_repeat,
       attributes, conflicting
FROM (SELECT *, row_number() OVER (PARTITION BY first_id ORDER BY name, caption) AS pair_repeat FROM minted)
