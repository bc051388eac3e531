SELECT
    (SELECT count(*) FROM source_rows) AS listed,
    (SELECT count(*) FROM source_rows) - coalesce((SELECT sum(occurrences) FROM usable), 0)::BIGINT AS unusable,
    coalesce((SELECT sum(occurrences - 1) FROM usable), 0)::BIGINT AS exact_repeats,
    (SELECT count(*) FROM pairs WHERE place > 1) AS id_collisions,
    (SELECT count(*) FROM pairs) AS pairs,
    (SELECT count(DISTINCT sample_id) FROM pairs) AS distinct_ids
