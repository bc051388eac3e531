-- What the balance decided on one image.
SELECT group_id, group_size, distance_to_center, kept
FROM balance_groups WHERE image_id = $image
