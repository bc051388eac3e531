-- Samples that can be used, with those of their captions that are wanted; `usable` are those that have one. To be put in:
-- kind, a view or a table; captions, the wanted ones.
CREATE OR REPLACE TEMP {kind} judged AS
SELECT shard, number, name, attributes, len(captions) AS captions_found, {captions} AS captions
FROM own_samples WHERE unused IS NULL;

CREATE OR REPLACE TEMP VIEW usable AS FROM judged WHERE len(captions) > 0
