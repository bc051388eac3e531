-- All that files of embeddings say of an image beside the vectors.
CREATE OR REPLACE TEMP VIEW facts AS
SELECT pairs.sample_id, embeddings.* EXCLUDE ({vectors}), pairs.similarity AS image_text_similarity
FROM embeddings JOIN pairs USING (image_id)
