-- One row per image. A member farther than $max_distance_to_centre from its centre is released: a group of its own.
WITH members AS (
    SELECT
        sample_id,
        CASE WHEN distance_to_centre <= $max_distance_to_centre THEN centre_id ELSE sample_id END AS group_id,
        CASE WHEN distance_to_centre <= $max_distance_to_centre THEN distance_to_centre ELSE 0 END AS distance_to_centre
    FROM centres
),
everyone AS (
    SELECT * FROM members
    UNION ALL
    SELECT sample_id, sample_id AS group_id, 0 AS distance_to_centre
    FROM read_parquet($embeddings) AS embeddings ANTI JOIN members USING (sample_id)
)
SELECT
    sample_id,
    group_id,
    count(*) OVER (PARTITION BY group_id) AS group_size,
    distance_to_centre,
    sample_id = group_id AS kept
FROM everyone
ORDER BY sample_id
