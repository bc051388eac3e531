CREATE OR REPLACE TEMP VIEW removals AS SELECT distance FROM links WHERE distance <= {reach}::FLOAT
