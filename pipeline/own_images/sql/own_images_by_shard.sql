SELECT image_id, found.* FROM own JOIN own_samples AS found ON found.shard = lies.shard AND found.number = lies.number
ORDER BY found.shard::BIGINT, found.number
