SELECT sample_id, image_id, reason FROM filtered ANTI JOIN blocked USING (image_id) ORDER BY image_id, sample_id
