DELETE FROM source_rows USING bad_rows
WHERE source_rows.list_index = bad_rows.part AND source_rows.place = bad_rows.place
