-- Which rows of which part are used, and under which id: of exact repeats the first.
CREATE OR REPLACE TEMP TABLE imported AS
SELECT sample_id, image_id, pairs.url, pairs.caption, source_rows.list_index AS part, source_rows.place
FROM source_rows
JOIN pairs ON trim(source_rows.url) = pairs.url AND source_rows.caption = pairs.caption
QUALIFY row_number() OVER (PARTITION BY sample_id ORDER BY part, source_rows.place) = 1
