-- Images that are near to a test image, and those of them that were kept.
WITH leaks AS (FROM read_parquet($leaks, hive_partitioning = false)),
balanced AS (SELECT DISTINCT image_id, true AS kept FROM read_parquet($balanced, hive_partitioning = false)),
leaked AS (SELECT image_id, coalesce(kept, false) AS kept FROM (SELECT DISTINCT image_id FROM leaks) LEFT JOIN balanced USING (image_id))
SELECT
    (SELECT count(*) FROM (SELECT DISTINCT dataset, key FROM leaks)) AS test_images,
    count(*) AS found,
    count(*) FILTER (kept) AS kept,
    count(*) FILTER (NOT kept) AS left_out
FROM leaked
