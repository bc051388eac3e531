-- Texts among JSON values: those that are one, and those in a list; what holds no letter or sign is none.
CREATE OR REPLACE TEMP MACRO texts_of(found) AS
    list_filter(
        flatten(list_transform(found, lambda value:
            CASE json_type(value) WHEN 'VARCHAR' THEN [value ->> '$']
                                  WHEN 'ARRAY' THEN list_transform(CAST(value AS JSON[]), lambda item:
                                      CASE WHEN json_type(item) = 'VARCHAR' THEN item ->> '$' END) END)),
        lambda text: regexp_matches(text, '\S'))
