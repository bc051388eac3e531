WITH verdicts AS (SELECT * FROM read_parquet($groups, hive_partitioning = false)),
survivors AS (SELECT group_id, count(*) FILTER (kept) AS kept FROM verdicts GROUP BY group_id)
SELECT
    (SELECT count(*) FROM verdicts) AS images,
    (SELECT count(*) FROM verdicts WHERE kept) AS kept,
    (SELECT count(*) FROM read_parquet($removed, hive_partitioning = false)) AS removed,
    (SELECT count(*) FROM survivors WHERE kept <> 1) AS groups_without_one_survivor,
    (SELECT count(*) FROM (SELECT sample_id FROM verdicts WHERE kept) AS survivors ANTI JOIN read_parquet($balanced, hive_partitioning = false) AS balanced USING (sample_id))
        AS kept_not_in_balanced,
    (
        SELECT count(*) FROM read_parquet($removed, hive_partitioning = false) AS removed
        ANTI JOIN (SELECT sample_id AS kept_sample_id FROM verdicts WHERE kept) AS centers USING (kept_sample_id)
    ) AS removed_without_survivor,
    (SELECT count(*) FROM read_parquet($blocked, hive_partitioning = false)) AS blocked,
    (
        SELECT count(*) FROM read_parquet($blocked, hive_partitioning = false) AS blocked
        SEMI JOIN (
            SELECT sample_id FROM verdicts
            UNION ALL SELECT sample_id FROM read_parquet($balanced, hive_partitioning = false)
            UNION ALL SELECT sample_id FROM read_parquet($removed, hive_partitioning = false)
        ) AS used USING (sample_id)
    ) AS blocked_but_used,
    (SELECT count(*) FROM read_parquet($embeddings, hive_partitioning = false))
        - (SELECT count(*) FROM read_parquet($balanced, hive_partitioning = false)) - (SELECT count(*) FROM read_parquet($removed, hive_partitioning = false))
        - (SELECT count(*) FROM read_parquet($blocked, hive_partitioning = false)) AS missing
