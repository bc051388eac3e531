WITH sizes AS (
    SELECT cluster_id, count(assigned.image_id) AS images
    FROM read_parquet($centroids, hive_partitioning = false) AS centroids LEFT JOIN read_parquet($assignments, hive_partitioning = false) AS assigned USING (cluster_id)
    GROUP BY cluster_id
)
SELECT
    count(*) AS clusters,
    count(*) FILTER (images = 0) AS empty,
    count(*) FILTER (images = 0) / count(*) AS empty_share,
    max(images) AS largest,
    (SELECT count(*) FROM read_parquet($balanced, hive_partitioning = false) AS balanced ANTI JOIN read_parquet($assignments, hive_partitioning = false) AS assignments USING (image_id))
        AS without_label
FROM sizes
