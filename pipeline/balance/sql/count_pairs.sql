SELECT count(*) AS pairs FROM pairs
