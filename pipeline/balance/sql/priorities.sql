-- The place of each image in the order that is asked for; of an image with several captions the one that comes first counts.
CREATE OR REPLACE TEMP TABLE priorities AS
SELECT image_id, min(place) AS place
FROM (
    SELECT image_id, row_number() OVER (ORDER BY {terms}, image_id, sample_id) AS place
    FROM (SELECT facts.* FROM facts SEMI JOIN {images} USING (image_id) ANTI JOIN filtered USING (sample_id)) AS facts
)
GROUP BY image_id
