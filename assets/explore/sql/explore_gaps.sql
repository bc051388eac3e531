-- Clusters whose gap costs the student most: by the number of images that the teacher finds beyond it.
SELECT cluster_id, images, student_accuracy, teacher_accuracy, gap
FROM cluster_accuracy
ORDER BY gap * images DESC, cluster_id
LIMIT $count
