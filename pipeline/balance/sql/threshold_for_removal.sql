-- The smallest distance at which at least $removed images are removed; no row if none of them removes so many.
SELECT distance::DOUBLE AS threshold FROM removals ORDER BY distance LIMIT 1 OFFSET $removed - 1
