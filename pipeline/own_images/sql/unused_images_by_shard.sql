SELECT shard, key, reason, error FROM (
    SELECT shard, number, key, unused AS reason, error FROM own_samples WHERE unused IS NOT NULL
    UNION ALL
    SELECT found.shard, found.number, key, 'repeated_image',
           concat('its image is number ', lies.number, ' of shard ', lies.shard)
    FROM own_samples AS found JOIN named USING (name)
    WHERE unused IS NULL AND (found.shard <> lies.shard OR found.number <> lies.number)
) ORDER BY shard::BIGINT, number
