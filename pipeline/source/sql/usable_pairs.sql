-- Pairs of source_rows: usable, wanted, each once. An image is named by its trimmed URL where no name is given. `wanted`
-- is a condition; `attributes` what is kept of repeats.
CREATE OR REPLACE TEMP TABLE usable AS
SELECT *, mint_image(name, '') AS first_image_id, mint(name, caption, '') AS first_id
FROM (
    SELECT coalesce(name, trim(url)) AS name, caption, bool_or(url IS NOT NULL) AS has_url,
           min(list_index) AS list_index, count(*) AS occurrences{attributes}
    FROM source_rows
    WHERE {wanted}
    GROUP BY coalesce(name, trim(url)), caption
);
