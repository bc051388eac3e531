-- Captions of the $count largest groups: of the image that was kept, then of those that it replaced, nearest first.
WITH groups AS (FROM read_parquet($groups, hive_partitioning = false)),
chosen AS (SELECT group_id FROM groups WHERE group_id = image_id AND group_size > 1 ORDER BY group_size DESC, group_id LIMIT $count),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY group_id ORDER BY kept DESC, distance_to_center, image_id) AS place
    FROM groups SEMI JOIN chosen USING (group_id)
),
shown AS (FROM ranked WHERE place <= $members)
SELECT group_id, group_size, kept, distance_to_center, min(caption) AS caption
FROM shown JOIN read_parquet($pairs, hive_partitioning = false) AS pairs USING (image_id)
GROUP BY group_id, group_size, place, kept, distance_to_center
ORDER BY group_size DESC, group_id, place
