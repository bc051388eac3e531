-- The image nearest to the center of each of these clusters.
SELECT cluster_id, arg_min(image_id, (distance, image_id)) AS image_id
FROM cluster_assignments WHERE cluster_id IN (SELECT unnest($clusters::INTEGER[]))
GROUP BY cluster_id
