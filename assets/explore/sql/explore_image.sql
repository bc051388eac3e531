-- What the download says of one image.
SELECT status, left(error, $longest) AS error, left(url, $longest) AS url, width, height
FROM images WHERE image_id = $image
