-- Rows of one list, with the two columns that matter. {scan} is the table function for the list's format.
SELECT CAST("{url_column}" AS VARCHAR) AS url, CAST("{caption_column}" AS VARCHAR) AS caption, {list_index} AS list_index
FROM {scan}
