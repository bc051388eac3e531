SELECT sample_id, matched FROM blocked ORDER BY sample_id
