-- The images of a cluster nearest to its center, or farthest from it.
SELECT image_id, distance
FROM cluster_assignments WHERE cluster_id = $cluster
ORDER BY CASE WHEN $nearest THEN distance ELSE -distance END, image_id
LIMIT $count
