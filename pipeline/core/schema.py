"""Every table's columns, in one place.

What is said of pixels is keyed by ``image_id``, what is said of a caption by ``sample_id``: a pair of an image and one
caption. Tables join by these two alone, never by position.
"""

import pyarrow as pa

SAMPLE_ID = pa.field("sample_id", pa.int64(), nullable=False)
IMAGE_ID = pa.field("image_id", pa.int64(), nullable=False)

# Pairs of one image stand in one shard, one after the other. No URL: the image was there already.
SOURCE_PAIRS = pa.schema([SAMPLE_ID, IMAGE_ID, pa.field("url", pa.string()), pa.field("caption", pa.string())])

IMAGES = pa.schema(
    [
        IMAGE_ID,
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("url", pa.string()),
        pa.field("status", pa.string()),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("sha256", pa.string()),
        # Of the same bytes: by which other collections name what must not be used.
        pa.field("md5", pa.string()),
    ]
)

NEAR_DUPLICATES = pa.schema(
    [
        pa.field("id_a", pa.int64(), nullable=False),
        pa.field("id_b", pa.int64(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)

BALANCE_GROUPS = pa.schema(
    [
        IMAGE_ID,
        pa.field("group_id", pa.int64(), nullable=False),
        pa.field("group_size", pa.int64(), nullable=False),
        pa.field("distance_to_center", pa.float32(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
    ]
)

BALANCED_PAIRS = pa.schema(
    [
        SAMPLE_ID,
        IMAGE_ID,
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("group_size", pa.int64(), nullable=False),
        pa.field("image_text_similarity", pa.float32()),
    ]
)

REMOVED_PAIRS = pa.schema(
    [
        SAMPLE_ID,
        IMAGE_ID,
        pa.field("kept_image_id", pa.int64(), nullable=False),
        pa.field("distance_to_center", pa.float32(), nullable=False),
    ]
)

BLOCKED_PAIRS = pa.schema([SAMPLE_ID, IMAGE_ID, pa.field("matched", pa.string(), nullable=False)])

# Images that were adopted as they are, and turned out to be none when they were to be embedded.
UNREADABLE_IMAGES = pa.schema([IMAGE_ID, pa.field("error", pa.string())])

FILTERED_PAIRS = pa.schema([SAMPLE_ID, IMAGE_ID, pa.field("reason", pa.string(), nullable=False)])

EVALUATION_LEAKS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        IMAGE_ID,
        pa.field("distance", pa.float32(), nullable=False),
    ]
)

CLUSTER_ASSIGNMENTS = pa.schema(
    [
        IMAGE_ID,
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
    ]
)

EVALUATION = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
    ]
)

# What each training run of the ablation was measured at, whichever grids it belongs to. Runs of earlier versions have
# no `epochs` and no `elapsed_s`.
ABLATION_CELLS = pa.schema(
    [
        pa.field("data", pa.string(), nullable=False),
        pa.field("losses", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("epochs", pa.float64()),
        pa.field("elapsed_s", pa.float64()),
        *(field for field in EVALUATION if field.name != "model"),
    ]
)
ABLATION = pa.schema([pa.field("axis", pa.string(), nullable=False), *ABLATION_CELLS])

CLUSTER_ACCURACY = pa.schema(
    [
        pa.field("cluster_id", pa.int32(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("student_accuracy", pa.float64(), nullable=False),
        pa.field("teacher_accuracy", pa.float64(), nullable=False),
        pa.field("gap", pa.float64(), nullable=False),
    ]
)

# Where a sample's bytes lie in its tar; kept beside the tars so that any sample can be read without a scan.
TAR_INDEX = pa.schema(
    [
        IMAGE_ID,
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        # Of extension and content of each member, in their order; not of headers, which hold times and sum themselves.
        # Indexes of earlier versions lack it, and their samples are read unverified.
        pa.field("crc32", pa.uint32()),
        # Where the tar lies, if not under the root: images that were there before.
        pa.field("tar", pa.string()),
    ]
)

# Metric columns that every run has; one column per loss term is added to them.
TRAINING_METRICS = (
    *("step", "samples_seen", "loss", "learning_rate", "logit_scale", "gradient_norm"),
    *("samples_per_second", "data_stall", "memory_gb"),
)
# Those that no two runs share.
MACHINE_METRICS = ("samples_per_second", "data_stall", "memory_gb")

# What a student was measured by while it was trained; ``dataset`` is null for samples held out of its own training set.
TRAINING_EVALUATIONS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("dataset", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)

# Rows per Parquet row group where there are embeddings: 1,048,576 rows (the default of pyarrow) of a
# 1280-dimensional float16 embedding would be 2.7 GB that a reader must hold at once.
EMBEDDING_ROW_GROUP = 8192


def teacher_embeddings(dim: int) -> pa.Schema:
    """Columns of ``teacher_embeddings``: an L2-normalized float16 vector of ``dim`` per image, a fixed-size list."""
    return pa.schema([IMAGE_ID, pa.field("image_embedding", _vector(dim), nullable=False)])


def caption_embeddings(dim: int) -> pa.Schema:
    """Columns of ``caption_embeddings``: the same per caption, and the cosine of the two embeddings of a pair."""
    vector = pa.field("text_embedding", _vector(dim), nullable=False)
    return pa.schema([SAMPLE_ID, IMAGE_ID, vector, pa.field("image_text_similarity", pa.float32())])


def teacher_views(dim: int) -> pa.Schema:
    """Columns of ``teacher_views``: a row per image and view, with what made the view (``pipeline.clip.View``)."""
    return pa.schema(
        [
            IMAGE_ID,
            pa.field("view", pa.int32(), nullable=False),
            pa.field("crop_left", pa.int32(), nullable=False),
            pa.field("crop_top", pa.int32(), nullable=False),
            pa.field("crop_side", pa.int32(), nullable=False),
            pa.field("flip", pa.bool_(), nullable=False),
            pa.field("brightness", pa.float32(), nullable=False),
            pa.field("contrast", pa.float32(), nullable=False),
            pa.field("saturation", pa.float32(), nullable=False),
            pa.field("image_embedding", _vector(dim), nullable=False),
        ]
    )


def _vector(dim: int) -> pa.DataType:
    return pa.list_(pa.field("item", pa.float16(), nullable=False), dim)


def centroids(dim: int) -> pa.Schema:
    """Columns of ``centroids``: one float32 vector of ``dim`` per cluster."""
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), dim)
    return pa.schema([pa.field("cluster_id", pa.int32(), nullable=False), pa.field("centroid", vector, nullable=False)])
