-- Images of which not one pair is left.
CREATE OR REPLACE TEMP TABLE filtered_images AS
SELECT DISTINCT image_id FROM filtered
ANTI JOIN (SELECT image_id FROM pairs ANTI JOIN filtered USING (sample_id)) AS left_over USING (image_id)
