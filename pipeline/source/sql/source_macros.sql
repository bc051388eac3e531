-- 64 bits of MD5 over the name of an image, shifted into BIGINT's range; over name, unit separator and caption for a pair.
CREATE OR REPLACE TEMP MACRO mint_image(name, salt) AS
    (md5_number_lower(concat(name, salt))::HUGEINT - 9223372036854775808)::BIGINT;

CREATE OR REPLACE TEMP MACRO mint(url, caption, salt) AS
    (md5_number_lower(concat(url, chr(31), caption, salt))::HUGEINT - 9223372036854775808)::BIGINT;

-- A URL of any scheme is kept: whether it may be fetched is for the download to say, in the status of the image. A caption
-- of nothing but spaces, of whatever kind and width, is none. The URL is not trimmed here, which would take as long as all
-- else.
CREATE OR REPLACE TEMP MACRO is_usable(url, name, caption) AS
    coalesce(CASE WHEN name IS NULL THEN regexp_matches(url, '^\p{Zs}*[A-Za-z][A-Za-z0-9+.-]*:[^\s\p{Zs}]')
                  ELSE name <> '' END
             AND regexp_matches(caption, '[^\s\x{0b}\x{85}\p{Z}]'), false);
