-- Captions of removed images as those of the image that stands for them, each text once for an image.
CREATE OR REPLACE TEMP TABLE moved AS
WITH given AS (
    SELECT sample_id, group_id AS image_id, caption, kept
    FROM read_parquet($groups, hive_partitioning = false)
    JOIN pairs_left USING (image_id)
    JOIN (SELECT sample_id, caption FROM named) AS texts USING (sample_id)
    WHERE NOT kept OR image_id = group_id
),
fresh AS (
    SELECT sample_id, image_id
    FROM given
    QUALIFY NOT kept AND row_number() OVER (PARTITION BY image_id, caption ORDER BY kept DESC, sample_id) = 1
)
SELECT
    sample_id, fresh.image_id,
    -- Embeddings of two widths are of two spaces.
    CASE WHEN len(image_embedding) = len(text_embedding)
        THEN list_inner_product(image_embedding, text_embedding)::FLOAT END AS similarity
FROM fresh
JOIN captions USING (sample_id)
JOIN embeddings ON embeddings.image_id = fresh.image_id
