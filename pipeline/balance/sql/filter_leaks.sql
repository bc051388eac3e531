INSERT INTO filtered
SELECT sample_id, pairs.image_id, concat('evaluation leak: ', string_agg(DISTINCT dataset, ', ' ORDER BY dataset)) AS reason
FROM pairs JOIN leaks USING (image_id)
ANTI JOIN filtered USING (sample_id)
GROUP BY ALL
