SELECT DISTINCT name, unnest(captions) AS caption, NULL AS attributes, false AS conflicting FROM usable
