-- All pairs of a root, with what a blocklist may name them by, and the shard that they stand in.
CREATE OR REPLACE TEMP TABLE known AS
SELECT sample_id, image_id, source_pairs.url, parse_filename(filename, true) AS shard{hashes}
FROM source_pairs {images}
