-- Sum and number of the similarities of the captions of removed images, each as often as it stands for others.
SELECT coalesce(sum(weight * similarity), 0) AS total, coalesce(sum(weight) FILTER (similarity IS NOT NULL), 0) AS count
FROM pairs JOIN removed USING (image_id)
