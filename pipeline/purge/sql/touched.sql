-- Images that stay and have been given a caption of one that does not.
SELECT DISTINCT image_id
FROM balanced_pairs
SEMI JOIN (SELECT sample_id FROM known SEMI JOIN blocked USING (image_id)) AS gone USING (sample_id)
ANTI JOIN blocked USING (image_id)
