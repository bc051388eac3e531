-- Pairs that a keep-list does not name; what is no uid is on no list.
CREATE OR REPLACE TEMP TABLE unlisted AS
SELECT sample_id, image_id
FROM (
    SELECT
        sample_id, image_id,
        CASE WHEN regexp_full_match(uid::VARCHAR, '[0-9a-fA-F]{{32}}') THEN uid::VARCHAR END AS uid,
        try_cast('0x' || substr(uid, 1, 16) AS UBIGINT) AS high, try_cast('0x' || substr(uid, 17, 16) AS UBIGINT) AS low
    FROM {relation}
) AS pairs
WHERE uid IS NULL OR NOT EXISTS (FROM keep_uids WHERE keep_uids.high = pairs.high AND keep_uids.low = pairs.low)
