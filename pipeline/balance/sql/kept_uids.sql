CREATE OR REPLACE TEMP TABLE kept_uids AS
SELECT uid::VARCHAR AS uid, regexp_full_match(uid::VARCHAR, '[0-9a-fA-F]{32}') AS fits
FROM balanced JOIN attributes USING (sample_id, image_id)
