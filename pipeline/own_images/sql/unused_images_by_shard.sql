SELECT shard, key, reason, error FROM (
    SELECT shard, number, key, unused AS reason, error FROM own_samples WHERE unused IS NOT NULL
    UNION ALL
    SELECT found.shard, found.number, key, 'repeated_image',
           concat('its image is number ', lies.number, ' of shard ', lies.shard)
    FROM usable AS used JOIN named USING (name)
    JOIN own_samples AS found ON found.shard = used.shard AND found.number = used.number
    WHERE used.shard <> lies.shard OR used.number <> lies.number
    UNION ALL
    SELECT found.shard, found.number, key, 'filtered', NULL
    FROM judged AS used JOIN own_samples AS found ON found.shard = used.shard AND found.number = used.number
    WHERE len(used.captions) = 0
) ORDER BY shard::BIGINT, number
