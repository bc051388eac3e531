SELECT shard, sample_id, image_id, url, caption{attributes} FROM pairs ORDER BY shard::BIGINT, image_id, sample_id
