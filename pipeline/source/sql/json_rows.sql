-- URL and caption of each object of a list, and why one is refused. {scan} is the table function; {url} and {caption} are
-- pointers to the keys, {url_key} and {caption_key} their names; {texts} are types of values that stand there as in a text.
CREATE OR REPLACE TEMP TABLE list_rows AS
SELECT json ->> {url} AS url, json ->> {caption} AS caption,
       json_type(json, {url}) AS url_type, json_type(json, {caption}) AS caption_type,
       CASE WHEN json IS NULL THEN 'no JSON'
            WHEN json_type(json) <> 'OBJECT' THEN concat('a line that is ', json_type(json))
            WHEN url_type NOT IN ({texts}, 'NULL') THEN concat({url_key}, ': ', url_type)
            WHEN caption_type NOT IN ({texts}, 'NULL') THEN concat({caption_key}, ': ', caption_type)
       END AS refused
FROM {scan}
