WITH leaks AS (FROM read_parquet($leaks, hive_partitioning = false)),
leaked AS (SELECT DISTINCT image_id FROM leaks)
SELECT
    (SELECT count(*) FROM (SELECT DISTINCT dataset, key FROM leaks)) AS test_images,
    (SELECT count(*) FROM leaked) AS found,
    (
        SELECT count(*) FROM leaked
        SEMI JOIN (FROM read_parquet($balanced, hive_partitioning = false)) AS balanced USING (image_id)
    ) AS kept,
    found - kept AS left_out
