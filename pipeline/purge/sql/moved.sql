-- Pairs of images that were removed for a kept one that goes, and do not go themselves.
WITH lost AS (SELECT DISTINCT group_id FROM balance_groups SEMI JOIN gone_images USING (image_id) WHERE kept),
orphans AS (
    SELECT image_id FROM balance_groups SEMI JOIN lost USING (group_id) ANTI JOIN gone_images USING (image_id)
    WHERE NOT kept
)
SELECT sample_id, image_id FROM removed_pairs SEMI JOIN orphans USING (image_id) ORDER BY image_id, sample_id
