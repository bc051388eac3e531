-- Clusters by size, with the image nearest to each center.
SELECT cluster_id, count(*) AS images, max(distance) AS farthest, arg_min(image_id, (distance, image_id)) AS image_id
FROM cluster_assignments
GROUP BY cluster_id
ORDER BY images DESC, cluster_id
LIMIT $count OFFSET $skip
