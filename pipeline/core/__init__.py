"""What every stage uses and that knows none: errors, schemas, settings, files, tars, DuckDB, processes, devices."""
