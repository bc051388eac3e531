SELECT image_id, arg_min(caption, sample_id) AS caption FROM facts SEMI JOIN shown USING (image_id) GROUP BY image_id
