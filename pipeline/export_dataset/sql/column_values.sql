-- The most frequent values of a column, images counted.
SELECT {column}::VARCHAR AS value, count(*) AS images
FROM data
GROUP BY ALL
ORDER BY images DESC, value NULLS LAST
LIMIT $most
