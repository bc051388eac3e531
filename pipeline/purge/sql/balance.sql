-- The tables of a balance without what goes. Images that were removed for the sake of one that goes stand for nobody's
-- choice any more: they are filtered until the balance is made anew.
CREATE OR REPLACE TEMP TABLE new_groups AS
SELECT
    image_id,
    CASE WHEN group_id IN (FROM gone_images) THEN min(image_id) OVER same ELSE group_id END AS group_id,
    count(*) OVER same AS group_size, distance_to_center, kept
FROM balance_groups ANTI JOIN gone_images USING (image_id) ANTI JOIN orphans USING (image_id)
WINDOW same AS (PARTITION BY group_id);

CREATE OR REPLACE TEMP VIEW new_balance_groups AS FROM new_groups ORDER BY image_id;

CREATE OR REPLACE TEMP VIEW new_removed_pairs AS
FROM removed_pairs ANTI JOIN gone_images USING (image_id) ANTI JOIN orphans USING (image_id)
ORDER BY image_id, sample_id;

CREATE OR REPLACE TEMP VIEW new_blocked_pairs AS
FROM blocked_pairs ANTI JOIN gone_images USING (image_id) ORDER BY image_id, sample_id;

CREATE OR REPLACE TEMP VIEW new_filtered_pairs AS
SELECT sample_id, image_id, reason FROM filtered_pairs ANTI JOIN gone_images USING (image_id)
UNION ALL
SELECT sample_id, image_id, reason FROM moved ANTI JOIN filtered_pairs USING (sample_id)
ORDER BY image_id, sample_id;

CREATE OR REPLACE TEMP VIEW new_balanced_pairs AS
SELECT balanced_pairs.* REPLACE (new_groups.group_size AS group_size)
FROM balanced_pairs JOIN new_groups USING (image_id) ANTI JOIN gone_samples USING (sample_id)
ORDER BY balanced_pairs.image_id, balanced_pairs.sample_id;
