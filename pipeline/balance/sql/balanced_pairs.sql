-- A row for each caption of a kept image, with what is known of it; {moved} adds captions of removed images.
WITH chosen AS (
    SELECT image_id, group_size FROM read_parquet($groups, hive_partitioning = false) WHERE kept
),
described AS (
    SELECT sample_id, image_id, similarity FROM pairs_left SEMI JOIN chosen USING (image_id){moved}
)
SELECT
    sample_id, image_id, images.url, caption, shard, key, width, height, group_size, similarity AS image_text_similarity
FROM described
JOIN chosen USING (image_id)
JOIN images USING (image_id)
JOIN (SELECT sample_id, caption FROM named) AS texts USING (sample_id)
ORDER BY image_id, sample_id
