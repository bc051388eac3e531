SELECT sample_id, image_id, group_id AS kept_image_id, distance_to_center
FROM read_parquet($groups, hive_partitioning = false) JOIN pairs_left USING (image_id)
WHERE NOT kept
ORDER BY image_id, sample_id
