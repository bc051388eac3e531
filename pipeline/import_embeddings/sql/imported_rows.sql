-- Which rows of which part are used, and under which ids: of exact repeats the first. Of several captions of one image it
-- is the vector beside the first that stands for the image.
CREATE OR REPLACE TEMP TABLE imported AS
WITH used AS (
    SELECT sample_id, image_id, pairs.url, pairs.caption, source_rows.list_index AS part, source_rows.place
    FROM source_rows
    JOIN pairs ON trim(source_rows.url) = pairs.url AND source_rows.caption = pairs.caption
    QUALIFY row_number() OVER (PARTITION BY sample_id ORDER BY part, source_rows.place) = 1
)
SELECT *, row_number() OVER (PARTITION BY image_id ORDER BY part, place) = 1 AS first FROM used
