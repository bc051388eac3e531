JOIN (
    -- Indexes of other writers lack what may be null.
    SELECT NULL::UINTEGER AS crc32, NULL::VARCHAR AS tar WHERE false
    UNION ALL BY NAME
    SELECT * FROM read_parquet($index, hive_partitioning = false, union_by_name = true)
) AS places USING (image_id)
