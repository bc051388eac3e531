-- What the expression is not true for: null is not true.
INSERT INTO filtered
SELECT sample_id, image_id, $reason AS reason FROM facts WHERE ({expression}) IS NOT TRUE
