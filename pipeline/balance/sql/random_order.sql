-- The place of an image in an order by chance, which depends on nothing but seed and id.
CREATE OR REPLACE TEMP MACRO random_place(seed, id) AS md5_number_lower(concat(seed, ':', id))
