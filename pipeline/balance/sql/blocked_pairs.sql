SELECT sample_id, image_id, matched FROM blocked JOIN pairs USING (image_id) ORDER BY image_id, sample_id
