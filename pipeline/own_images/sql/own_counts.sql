SELECT (SELECT count(*) FROM own_samples) AS found,
       (SELECT count(*) FROM own) AS images,
       (SELECT count(*) FROM pairs) AS pairs,
       (SELECT coalesce(sum(samples - 1), 0)::BIGINT FROM named) AS repeated_images,
       (SELECT count(*) FROM named) - (SELECT count(*) FROM own) AS beyond_limit,
       (SELECT count(*) FROM own WHERE name LIKE 'sha256:%') AS images_without_url,
       (SELECT count(*) FROM own WHERE repeat > 1)
       + (SELECT count(*) FROM pairs WHERE pair_repeat > 1) AS id_collisions,
       (SELECT count(*) FROM pairs WHERE conflicting) AS attribute_conflicts,
       (SELECT coalesce(sum(captions_found - len(captions)), 0)::BIGINT FROM judged) AS filtered,
       (SELECT count(*) FROM judged WHERE len(captions) = 0) AS filtered_images,
       (SELECT count(DISTINCT image_id) FROM own) AS image_ids,
       (SELECT count(DISTINCT sample_id) FROM pairs) AS sample_ids
