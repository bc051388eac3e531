SELECT
    (SELECT count(DISTINCT id) FROM listed_ids) + (SELECT count(DISTINCT url) FROM listed_urls) AS entries,
    (SELECT count(DISTINCT id) FROM listed_ids ANTI JOIN matched_ids USING (id))
        + (SELECT count(DISTINCT url) FROM listed_urls ANTI JOIN matched_urls USING (url)) AS unmatched,
    (SELECT count(*) FROM blocked) AS blocked,
    (SELECT count(*) FROM embeddings) AS images
