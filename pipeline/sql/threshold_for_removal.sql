-- The smallest distance at which at least $removed images are removed; no row if the forest does not reach so far.
SELECT distance::DOUBLE AS threshold FROM read_parquet($forest) ORDER BY distance LIMIT 1 OFFSET $removed - 1
