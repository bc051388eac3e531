-- Samples of a tar from its members, in its order. To be put in: run, which sets those apart that share a key; later,
-- which says that a sample is not the first of its key; keys, pointers to what is looked for in JSON: sha256, width,
-- height, then urls for a URL, captions and others for captions; carried, columns of what is carried along.
WITH split AS (
    SELECT number, content, bad, cut, name,
           parse_filename(name, false, 'forward_slash') AS base, strpos(base, '.') AS dot
    FROM members
), keyed AS (
    SELECT number, content, bad, cut, name[: length(name) - length(base) + dot - 1] AS key,
           base[dot + 1 :] AS extension,
           -- Powers of 2: their sum is no longer the same as all of them together when one is there twice.
           CASE lower(extension) WHEN 'jpg' THEN 1 WHEN 'jpeg' THEN 2 WHEN 'png' THEN 4 WHEN 'webp' THEN 8
                          WHEN 'txt' THEN 16 WHEN 'json' THEN 32 ELSE 0 END AS code
    FROM split WHERE dot > 1 AND dot < length(base) AND NOT contains(name, '__MACOSX/')
), runs AS (
    SELECT *, {run} AS run FROM keyed
), grouped AS (
    SELECT key, min(number) AS number, count(*) AS members, bool_or(bad) AS bad, bool_or(cut) AS cut,
           sum(code) <> bit_or(code) AS repeated,
           arg_min(number, code) FILTER (code BETWEEN 1 AND 8 AND NOT cut) AS image,
           arg_min(extension, code) FILTER (code BETWEEN 1 AND 8) AS extension,
           any_value(extension) FILTER (code = 0) AS another,
           any_value(content) FILTER (code = 16) AS txt, any_value(content) FILTER (code = 32) AS json
    FROM runs GROUP BY key, run
), valued AS (
    SELECT *, TRY(json_extract(json, {keys})) AS found, json IS NOT NULL AND found IS NULL AS bad_json FROM grouped
)
SELECT key, number, members, image, extension, repeated, {carried}
       list_extract(list_filter(list_transform({urls}, lambda value: trim(value ->> '$')),
                                lambda url: regexp_matches(url, '^[a-zA-Z][a-zA-Z0-9+.-]*:\S')), 1) AS url,
       CASE WHEN regexp_matches(found[1] ->> '$', '^[0-9a-f]{{64}}$') THEN found[1] ->> '$' END AS sha256,
       TRY_CAST(found[2] ->> '$' AS INTEGER) AS width, TRY_CAST(found[3] ->> '$' AS INTEGER) AS height,
       CASE WHEN txt <> '' THEN [txt]
            ELSE coalesce(nullif(texts_of({captions}), []), texts_of({others})) END AS captions,
       CASE WHEN cut THEN 'cut_short' WHEN repeated OR {later} THEN 'repeated_key' WHEN image IS NULL THEN 'no_image'
            WHEN bad OR bad_json THEN 'failed_to_read' WHEN coalesce(len(captions), 0) = 0 THEN 'no_caption'
       END AS unused,
       CASE WHEN unused = 'no_image' AND another IS NOT NULL THEN concat('it has .', another)
            WHEN coalesce(unused, '') <> 'failed_to_read' THEN NULL
            WHEN bad THEN 'its txt or json is not UTF-8' ELSE 'its json cannot be read' END AS error
FROM valued ORDER BY number
