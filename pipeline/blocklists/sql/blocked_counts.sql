WITH named AS (SELECT DISTINCT 'id' AS kind, id::VARCHAR AS entry FROM listed_ids UNION SELECT kind, entry FROM listed_texts)
SELECT
    (SELECT count(*) FROM named) AS entries,
    (SELECT count(*) FROM named ANTI JOIN matches USING (kind, entry)) AS unmatched,
    (SELECT count(*) FROM blocked) AS blocked
