-- Of several samples of one pair the attributes of the first.
    SELECT name, caption, arg_min(attributes, place) AS attributes,
           min(attributes) IS DISTINCT FROM max(attributes) AS conflicting
    FROM (SELECT name, unnest(captions) AS caption, attributes, shard::BIGINT * 4294967296 + number AS place FROM usable)
    GROUP BY name, caption
