-- The 128 bits of a uid as DataComp splits them.
INSERT INTO {table}
SELECT ('0x' || substr(uid, 1, 16))::UBIGINT AS high, ('0x' || substr(uid, 17, 16))::UBIGINT AS low
FROM {relation}
WHERE uid IS NOT NULL
