-- The cluster of each image.
SELECT image_id, cluster_id FROM cluster_assignments ORDER BY image_id
