WITH verdicts AS (SELECT * FROM read_parquet($groups, hive_partitioning = false)),
balanced AS (FROM read_parquet($balanced, hive_partitioning = false)),
removed AS (FROM read_parquet($removed, hive_partitioning = false)),
blocked AS (FROM read_parquet($blocked, hive_partitioning = false)),
filtered AS (FROM read_parquet($filtered, hive_partitioning = false)),
survivors AS (
    SELECT least(any_value(group_size), $keep_per_group) AS wanted, count(*) FILTER (kept) AS kept
    FROM verdicts GROUP BY group_id
)
SELECT
    (SELECT count(*) FROM verdicts) AS images,
    (SELECT count(*) FROM verdicts WHERE kept) AS kept,
    (SELECT count(*) FROM verdicts WHERE NOT kept) AS removed,
    (SELECT count(*) FROM survivors WHERE kept <> wanted) AS groups_without_one_survivor,
    (SELECT count(*) FROM (FROM verdicts WHERE kept) AS stay ANTI JOIN balanced USING (image_id)) AS kept_not_in_balanced,
    (
        SELECT count(*) FROM removed ANTI JOIN (SELECT image_id AS kept_image_id FROM verdicts WHERE kept) AS centers
        USING (kept_image_id)
    ) AS removed_without_survivor,
    (SELECT count(DISTINCT image_id) FROM blocked) AS blocked,
    (
        SELECT count(DISTINCT image_id) FROM blocked
        SEMI JOIN (
            SELECT image_id FROM verdicts UNION ALL SELECT image_id FROM balanced UNION ALL SELECT image_id FROM removed
        ) AS used USING (image_id)
    ) AS blocked_but_used,
    (SELECT count(*) FROM filtered) AS filtered_pairs,
    (SELECT count(*) FROM filtered SEMI JOIN balanced USING (sample_id)) AS filtered_but_used,
    -- Every caption of an image with an embedding is in exactly one of the tables of pairs.
    (SELECT count(*) FROM read_parquet($captions, hive_partitioning = false))
        - (SELECT count(*) FROM balanced ANTI JOIN removed USING (sample_id)) - (SELECT count(*) FROM removed)
        - (SELECT count(*) FROM blocked) - (SELECT count(*) FROM filtered) AS missing
