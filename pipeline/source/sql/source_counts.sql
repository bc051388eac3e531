SELECT captions, captions - filtered - used AS unusable, filtered, used - pairs AS exact_repeats,
       (SELECT count(*) FROM pair_places WHERE place > 1) AS id_collisions,
       (SELECT count(*) FROM image_places WHERE image_place > 1) AS image_id_collisions,
       (SELECT count(DISTINCT image_id) FROM pairs) AS images,
       pairs, filtered_pairs.unusable AS counted_unusable
FROM (SELECT count(*) AS captions FROM source_rows),
     (SELECT coalesce(sum(occurrences), 0)::BIGINT AS used FROM usable),
     (SELECT count(*) AS pairs FROM pairs),
     filtered_pairs
