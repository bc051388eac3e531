"""What each column holds, in a line, for the page of a table in the Dagster UI; ``docs/tables.md`` says more."""

_COLUMNS = {
    "sample_id": "64-bit hash of URL and caption: a pair of an image and one caption",
    "image_id": "64-bit hash of the URL, or of the bytes where there is none; joins what is said of images",
    "url": "Where the image was asked for",
    "caption": "The text that came with it",
    "shard": "Name of the tar that holds the image, without its ending",
    "key": "Name of the sample in that tar",
    "status": "success, or why there is no image: one of the statuses of docs/ingest.md",
    "error": "Why there is no image; null where there is one",
    "width": "Pixels, as stored",
    "height": "Pixels, as stored",
    "original_width": "Pixels, as served",
    "original_height": "Pixels, as served",
    "sha256": "Of the bytes as they were served",
    "md5": "Of the same bytes",
    "image_embedding": "The teacher's, of unit length",
    "text_embedding": "The teacher's, of the caption, of unit length",
    "view": "Number of the view, from 0",
    "crop_left": "Left edge of the cut, in pixels of the stored image",
    "crop_top": "Its upper edge",
    "crop_side": "Its width and height",
    "flip": "Whether it is mirrored after the cut",
    "brightness": "Factor, after that; 1 changes nothing",
    "contrast": "The same, after brightness",
    "saturation": "The same, after contrast",
    "id_a": "image_id of one end of an edge, the smaller one",
    "id_b": "image_id of the other end",
    "distance": "Euclidean, between unit vectors: d\u00b2 = 2 \u2212 2 \u00b7 cosine",
    "group_id": "image_id of the group's center, the image that is kept",
    "group_size": "Images in the group, the kept one included",
    "distance_to_center": "Euclidean distance to the kept image",
    "matched": "What the blocklist names it by",
    "reason": "Why the pair is not used",
    "kept": "Whether the image stays",
    "kept_image_id": "The image that was kept in its place",
    "image_text_similarity": "Cosine of the teacher's two embeddings",
    "cluster_id": "Number of the cluster, from 0",
    "centroid": "Center in the teacher's embedding space",
    "model": "teacher, student or baseline",
    "task": "zero_shot, linear_probe or retrieval",
    "dataset": "Folder name of the evaluation set; with (clean) its test samples without those in evaluation_leaks",
    "split": "test: what models are asked is there",
    "metric": "Accuracy or recall, at a rank or as the mean over classes",
    "value": "Share in 0 to 1",
    "samples": "Queries behind the value",
    "images": "How many of the sampled training images are in the cluster",
    "student_accuracy": "Share of them whose own caption is the nearest of the whole sample, by the student",
    "teacher_accuracy": "The same by the teacher's cached embeddings",
    "gap": "The teacher's less the student's",
}

_OF_ONE_TABLE = {
    ("cluster_assignments", "distance"): "Euclidean distance to the nearest centroid",
    ("evaluation_leaks", "dataset"): "Folder name of the evaluation set",
    ("evaluation_leaks", "key"): "Of the test image: split, tar and key of the sample in it",
    ("evaluation_leaks", "image_id"): "The training image that is near to it",
}


def describe_column(table: str, column: str) -> str | None:
    """The line of one column; None for a column that is not of ours."""
    return _OF_ONE_TABLE.get((table, column), _COLUMNS.get(column))
