-- Keys of each object of a list, and why one is refused. `scan` is the table function; `columns` are texts and types of
-- the values; `cases` say which types are not what is asked for.
CREATE OR REPLACE TEMP TABLE list_rows AS
SELECT {columns},
       CASE WHEN json IS NULL THEN 'no JSON'
            WHEN json_type(json) <> 'OBJECT' THEN concat('a line that is ', json_type(json))
            {cases}
       END AS refused
FROM {scan}
