-- A listed host stands for itself and for all that lie below it: a.b.c lies below b.c, xb.c does not.
INSERT INTO matches
WITH suffixes AS (
    SELECT written, unnest([array_to_string(labels[first:], '.') FOR first IN range(1, len(labels) + 1)]) AS entry
    FROM (SELECT written, string_split(host, '.') AS labels FROM url_hosts)
),
fitting AS (
    SELECT DISTINCT written, entry FROM suffixes
    SEMI JOIN (SELECT entry FROM listed_texts WHERE kind = 'host') AS listed USING (entry)
)
SELECT DISTINCT 'host' AS kind, entry, 'host' AS matched, image_id
FROM (SELECT {host} AS written, image_id FROM {relation}) AS known JOIN fitting USING (written)
