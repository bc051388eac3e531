-- Members of the $count groups with the largest spread and of the $count largest, center first, for a sheet of pictures.
WITH spread AS (
    SELECT group_id, max(group_size) AS size, max(distance_to_center) AS reach
    FROM read_parquet($groups, hive_partitioning = false) WHERE group_size > 1 GROUP BY group_id
),
chosen AS (
    (SELECT group_id FROM spread ORDER BY size DESC, group_id LIMIT $count)
    UNION
    (SELECT group_id FROM spread ORDER BY reach DESC, group_id LIMIT $count)
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY group_id ORDER BY kept DESC, distance_to_center DESC, image_id) AS place
    FROM read_parquet($groups, hive_partitioning = false) AS groups SEMI JOIN chosen USING (group_id)
)
SELECT group_id, group_size, distance_to_center, shard, located.*
FROM ranked
JOIN read_parquet($images, hive_partitioning = false) AS images USING (image_id)
JOIN read_parquet($index, hive_partitioning = false) AS located USING (image_id)
WHERE place <= $columns
ORDER BY group_id, place
