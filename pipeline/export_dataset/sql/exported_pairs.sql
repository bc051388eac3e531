-- Every caption of every kept image, with all that goes into a data set: images in the order in which they are stored,
-- the captions that an image came with before those it took over. What stands in braces are joins, or nothing, and what
-- is taken from them. There are only joins and one sort, which DuckDB can spill.
SELECT
    pairs.image_id, pairs.sample_id, pairs.url, pairs.caption, pairs.image_text_similarity AS similarity,
    pairs.width, pairs.height, images.sha256, pairs.group_size{columns}
FROM read_parquet($pairs, hive_partitioning = false) AS pairs
JOIN (SELECT image_id, sha256 FROM read_parquet($images, hive_partitioning = false)) AS images USING (image_id)
JOIN (SELECT sample_id, image_id FROM read_parquet($source, hive_partitioning = false)) AS source USING (sample_id)
{attributes}
{scores}
{places}
ORDER BY pairs.shard, pairs.key, pairs.image_id, source.image_id <> pairs.image_id, pairs.sample_id
