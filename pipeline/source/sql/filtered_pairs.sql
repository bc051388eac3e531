-- Rows that would be pairs, but are not wanted, and those that would be none. `wanted` is a condition, false of these too.
SELECT count(*) FILTER (is_usable(url, name, caption) AND NOT {wanted}) AS filtered,
       count(*) FILTER (NOT is_usable(url, name, caption)) AS unusable
FROM source_rows
