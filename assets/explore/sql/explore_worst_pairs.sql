-- The pairs whose image and caption are least alike.
WITH worst AS (
    SELECT sample_id, image_id, image_text_similarity AS similarity
    FROM caption_embeddings WHERE image_text_similarity IS NOT NULL
    ORDER BY similarity, sample_id LIMIT $count
)
SELECT worst.image_id, similarity, left(caption, $longest) AS caption
FROM worst LEFT JOIN source_pairs USING (sample_id)
ORDER BY similarity, sample_id
