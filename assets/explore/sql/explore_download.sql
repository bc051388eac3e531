-- How often each outcome occurred, commonest first, with one example of each.
SELECT status, coalesce(split_part(error, ': ', 1), '') AS reason, count(*) AS images,
    left(coalesce(min(error), ''), $longest) AS example
FROM images
GROUP BY ALL
ORDER BY images DESC, status, reason
LIMIT 100
