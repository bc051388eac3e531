-- The cluster of one image.
SELECT cluster_id, distance FROM cluster_assignments WHERE image_id = $image
