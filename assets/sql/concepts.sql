-- Images per concept, a concept being the nearest centroid, before and after the balance.
SELECT cluster_id, count(*) AS before, count(*) FILTER (kept) AS after
FROM concepts JOIN read_parquet($groups, hive_partitioning = false) AS groups USING (image_id)
GROUP BY cluster_id
ORDER BY cluster_id
