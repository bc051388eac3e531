-- The entropy of shares n/N is ln N - sum(n ln n)/N, and its exponential the effective number of concepts.
WITH verdicts AS (SELECT * FROM read_parquet($groups, hive_partitioning = false)),
concepts AS (
    SELECT count(*) AS before, count(*) FILTER (kept) AS after
    FROM verdicts LEFT JOIN components USING (image_id)
    GROUP BY coalesce(component, image_id)
)
SELECT
    (SELECT count(*) FROM verdicts WHERE NOT kept AND distance_to_center > $threshold::FLOAT) AS removed_beyond_threshold,
    (SELECT avg(similarity) FROM pairs_left SEMI JOIN (FROM verdicts WHERE kept) AS chosen USING (image_id))
        AS similarity_kept,
    (SELECT avg(similarity) FROM pairs_left SEMI JOIN (FROM verdicts WHERE NOT kept) AS chosen USING (image_id))
        AS similarity_removed,
    (SELECT exp(ln(sum(before)) - sum(before * ln(before)) / sum(before)) FROM concepts) AS effective_concepts_before,
    (
        SELECT exp(ln(sum(after)) - sum(after * ln(after)) / sum(after)) FROM concepts WHERE after > 0
    ) AS effective_concepts_after
