-- Cosines of an image and its captions.
SELECT min(image_text_similarity) AS least, max(image_text_similarity) AS most
FROM caption_embeddings WHERE image_id = $image HAVING count(*) > 0
