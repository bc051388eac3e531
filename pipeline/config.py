"""Settings of the data stages. Every default is the built-in demo's; ``profiles/`` holds those of real data sets.

A field marked *runtime* says how fast or where something is made, not what: changing it recomputes nothing.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.outcomes import Failure

DEMO = "demo"
"""The name of the built-in corpus, teacher, student and evaluation set, wherever a path or model name may stand."""


class Section(BaseModel):
    """A frozen group of settings; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def content(self) -> dict[str, Any]:
        """The fields that decide what a stage makes, for its fingerprint."""
        values = {name: getattr(self, name) for name, field in type(self).model_fields.items() if not is_runtime(field)}
        return {name: value.content() if isinstance(value, Section) else value for name, value in values.items()}


def runtime(default: Any, description: str, **constraints: Any) -> Any:
    """A field that does not enter fingerprints."""
    return Field(default, description=description, json_schema_extra={"runtime": True}, **constraints)


def is_runtime(field: Any) -> bool:
    """Whether a field was declared with :func:`runtime`."""
    return bool(isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("runtime"))


class StorageConfig(Section):
    """Only for a root that is a URL, such as `s3://bucket/prefix`: how it is reached, and where copies lie."""

    options: dict[str, Any] = runtime(
        {},
        "fsspec's options for that protocol, for example `endpoint_url` and `profile` of s3fs. Credentials are better "
        "left to the environment or `~/.aws`.",
    )
    scratch: str = runtime(
        "data/scratch",
        "Folder for local copies and for what is being made. With `compute.engine: ray` every node sees it under the "
        "same path.",
    )


class ComputeConfig(Section):
    """Where shards are worked on."""

    engine: Literal["inline", "processes", "ray"] = runtime(
        "inline",
        "`inline`: one after another in this process; `processes`: local worker processes; `ray`: a Ray cluster "
        "(extra `ray`), for download, embeddings and pair search. Its nodes must see the root under the same path.",
    )
    workers: int = runtime(
        2,
        "Worker processes of the engine `processes`, at most one for each GPU where there are any; on `ray`, tasks of "
        "the pair search in flight per node, and cores of a cluster that is started for one stage.",
        ge=1,
    )
    address: str | None = runtime(
        None, "Address of a running Ray cluster, `auto` for the one this machine is part of; none starts a local one."
    )
    join: bool = runtime(
        False,
        "Make this machine a node of the cluster at `address`, without cores, while a stage uses it: for a driver that "
        "runs on none of its nodes, in a pod of its own for example.",
    )
    cpus_per_task: float = runtime(
        1.0, "Cores that Ray sets aside for a task of the pair search, or for a worker that holds the teacher.", gt=0
    )
    gpus_per_task: float = runtime(
        0.0, "GPUs, or shares of one, that Ray sets aside for the same; with 0 it lets them see no GPU.", ge=0
    )


class QueryConfig(Section):
    """Limits of every DuckDB connection."""

    memory_limit: str = runtime("2GB", "Memory that one DuckDB connection may use before it spills to disk.")
    threads: int = runtime(0, "Threads of one DuckDB connection; 0 means one per core.", ge=0)


class SourceConfig(Section):
    """Lists of image URLs and captions."""

    lists: list[str] = Field(
        [DEMO],
        description="Paths, globs or fsspec URLs of the lists; `demo` stands for the built-in corpus.",
        min_length=1,
    )
    format: Literal["auto", "parquet", "csv", "tsv", "json"] = Field(
        "auto", description="Format of the lists; `auto` goes by the file name's ending."
    )
    url_column: str = Field("URL", description="Column that holds the image URL (LAION's name by default).")
    caption_column: str = Field("TEXT", description="Column that holds the caption (LAION's name by default).")
    samples_per_shard: int = Field(
        1000, description="Pairs in one shard; a shard is the unit of work of all later stages.", ge=1, le=100_000
    )
    limit: int | None = Field(None, description="Use only this many pairs, those with the smallest ids.", ge=1)


class ImagesConfig(Section):
    """The download, done by img2dataset."""

    image_size: int = Field(64, description="Size in pixels that images are resized to, see `resize_mode`.", ge=1)
    resize_mode: Literal["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"] = Field(
        "keep_ratio", description="img2dataset's mode; `keep_ratio` brings the shorter side to `image_size`."
    )
    resize_only_if_bigger: bool = Field(True, description="Leave smaller images as they are.")
    encode_quality: int = Field(95, description="JPEG quality of stored images.", ge=1, le=100)
    min_image_size: int = Field(0, description="Refuse images whose shorter side has fewer pixels.", ge=0)
    max_image_area: int = Field(100_000_000, description="Refuse images of more pixels (decompression bombs).", ge=1)
    max_aspect_ratio: float = Field(10.0, description="Refuse images whose sides differ by more than this.", ge=1)
    disallowed_header_directives: list[str] = Field(
        ["noai", "noimageai", "noindex", "noimageindex", "noml"],
        description="Opt-outs in the `X-Robots-Tag` header that are honoured.",
    )
    robots_txt: bool = Field(
        False, description="Ask each site's robots.txt, once per process, and honour it. Costs a request per site."
    )
    max_bytes: int = Field(50_000_000, description="Refuse bodies of more bytes; reading stops there.", ge=1)
    sample_timeout_s: float = runtime(60, "Seconds for one sample, redirects and further attempts included.", gt=0)
    timeout_s: int = runtime(10, "Seconds one connection may stay silent.", ge=1)
    retries: int = runtime(0, "Further attempts after a failure that may pass, within `sample_timeout_s`.", ge=0)
    max_redirects: int = runtime(5, "Redirects followed for one sample.", ge=0)
    schemes: list[Literal["http", "https", "file", "data"]] = runtime(
        ["http", "https"], "URL schemes that are fetched. `file` reads this machine's files: only for your own lists."
    )
    connect_to: dict[str, str] = runtime(
        {},
        "Like curl's option of that name: host -> `address:port` to connect to instead. "
        "Such an address is trusted; all others must be public.",
    )
    allow_private_addresses: bool = runtime(
        False, "Fetch from loopback, private and link-local addresses too. Only for lists that you wrote yourself."
    )
    user_agent_token: str = runtime("clip-cid", "Name that the downloader gives to the servers it asks.")
    user_agent_contact: str | None = runtime(None, "Web or mail address where those servers' owners find you.")
    distributor: Literal["auto", "multiprocessing", "ray", "pyspark"] = runtime(
        "auto",
        "img2dataset's distributor; `auto` is `ray` with `compute.engine: ray`, else `multiprocessing`. The last two "
        "need that package, and the root under the same path on every machine.",
    )
    processes: int = runtime(
        2,
        "Download processes, of all machines together; on Ray one per core, and about twice as many shards under way.",
        ge=1,
    )
    threads: int = runtime(16, "Connections per process.", ge=1)
    stall_timeout_s: float = runtime(600, "Give up when no sample was answered for this many seconds.", gt=0)
    worker_restarts: int = runtime(2, "How often a shard may lose its worker before the stage gives up.", ge=0)
    success_floor: float = runtime(0.05, "Share of a shard's pairs below which it counts as bad.", ge=0, le=1)
    bad_shards: int = runtime(
        5,
        "Stop after this many bad shards in a row, look for the cause, and publish none of them; 0 never stops.",
        ge=0,
    )
    retry_statuses: list[Failure] = runtime(
        [], "Fetch pairs of these statuses again, in shards that are done too; images that are there stay as they are."
    )


class TeacherConfig(Section):
    """The large CLIP. Default `demo`; the paper's is ViT-bigG-14, laion2b_s39b_b160k (second-hand, unconfirmed)."""

    model: str = Field(
        DEMO, description="`demo`, an open_clip model name, an open_clip folder, or a JSON model config file."
    )
    pretrained: str | None = Field(None, description="open_clip pretrained tag or checkpoint file.")


class AugmentationConfig(Section):
    """How views are drawn, where there are several; see `views`."""

    min_crop: float = Field(
        0.4,
        description="Smallest share of the largest square in the image that a view is cut out of; the largest is all "
        "of it (unconfirmed).",
        gt=0,
        le=1,
    )
    flip_probability: float = Field(0.5, description="How often a view is mirrored (unconfirmed).", ge=0, le=1)
    brightness: float = Field(
        0.0, description="Brightness is multiplied by 1 plus or minus up to this (unconfirmed).", ge=0, le=1
    )
    contrast: float = Field(0.0, description="The same for contrast (unconfirmed).", ge=0, le=1)
    saturation: float = Field(0.0, description="The same for saturation (unconfirmed).", ge=0, le=1)
    seed: int = Field(0, description="Seed of the views, beside `sample_id` and the number of the view.")


class EmbeddingsConfig(Section):
    """Teacher embeddings of images and captions."""

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Precision of the teacher's forward pass. fp32 is that on a GPU too, without TF32. The lower ones "
        "are refused where a sample's embeddings turn away from those of fp32 by more than a cosine of 0.999.",
    )
    batch_size: int = Field(
        256, description="Images per forward pass. It enters the fingerprint: kernels round by batch shape.", ge=1
    )
    threads: int = Field(
        2,
        description="CPU threads of a forward pass, in each worker. It enters the fingerprint too, since sums are "
        "divided among them. Of no effect on a GPU.",
        ge=1,
    )
    compile: bool = Field(
        False,
        description="Compile the image tower with torch.compile, a transformer block by itself, once for all of them.",
    )
    views: int = Field(
        1,
        description="1: the student is trained on each image as it is. n of 2 or more: n random augmentations of each "
        "image that the balance kept are embedded too, into the table `teacher_views`, and it is trained on those.",
        ge=1,
        le=1000,
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    device: str = runtime("auto", "torch device; `auto` takes CUDA where there is one.")
    decode_threads: int = runtime(2, "Threads that decode and preprocess images ahead of the model.", ge=1)

    def plain(self) -> dict[str, Any]:
        """What decides the embeddings of images as they are, whatever views are made of them."""
        return {name: value for name, value in self.content().items() if name not in ("views", "augmentation")}

    def content(self) -> dict[str, Any]:
        """Without the augmentation where it is not used."""
        unused = {"augmentation"} if self.views == 1 else set()
        return {name: value for name, value in super().content().items() if name not in unused}


class NeighboursConfig(Section):
    """The near-duplicate forest."""

    max_distance: float = Field(
        0.6,
        description="Largest Euclidean distance between unit embeddings that is recorded; "
        "every threshold up to it can be had without another pass.",
        gt=0,
        lt=2,
    )
    prefix: int | None = runtime(
        None,
        "Leading principal coordinates of the bound that settles most pairs; none takes the cheapest by trial.",
        ge=1,
    )
    precision: Literal["auto", "float32", "tfloat32", "bfloat16"] = runtime(
        "auto", "Type of the bound's matrix product; verdicts are in float64 whatever it is. `auto` tries."
    )
    device: Literal["auto", "cpu", "cuda"] = runtime(
        "auto", "Where tiles are searched; `auto` takes CUDA where the process that searches one finds it."
    )
    tile_rows: int | None = runtime(
        None,
        "Rows of one side of a tile, the unit that is scheduled and resumed; none takes 16,384 for a CPU and 524,288 "
        "for a GPU.",
        ge=1,
    )
    memory_limit: str = runtime("4GB", "Refuse to start if the search could need more than this.")


class BalanceConfig(Section):
    """The image semantic balance: one image per group of near-duplicates stays."""

    rule: Literal["connected_components", "semdedup", "random"] = Field(
        "connected_components",
        description="`connected_components`: CLIP-CID's; `semdedup`: k-means cells, as in arXiv 2303.09540, to compare "
        "with; `random`: as many images as the first would remove, drawn by chance, as a control.",
    )
    threshold: float = Field(
        0.2,
        description="Euclidean distance up to which two images are neighbours; 0.2 suits the demo's teacher. "
        "DanQing (arXiv 2601.10305) uses 0.447 for CLIP-CID's step (proxy, unconfirmed).",
        gt=0,
        lt=2,
    )
    target_removal: float | None = Field(
        None,
        description="Share of images to remove; if given, the threshold is solved from it. The paper removed 0.437.",
        gt=0,
        lt=1,
    )
    max_distance_to_centre: float | None = Field(
        None,
        description="Members farther than this from their centre are released, that is kept. Not with rule `random`.",
        gt=0,
        lt=2,
    )
    blocklist: list[str] = Field(
        [],
        description="Files of ids or URLs that must not be used: Parquet or CSV with a column `sample_id` or `url`, or "
        "text with one of either a line. Their content decides what is recomputed, not their names.",
    )
    cells: int = Field(
        16,
        description="Cells of rule `semdedup`. SemDeDup took 50,000 for LAION-440M, about 9,000 images a cell; 16 "
        "suits the demo (unconfirmed).",
        ge=1,
    )
    cell_iterations: int = Field(
        100, description="Lloyd iterations for these cells; 100 in SemDeDup's published configuration.", ge=1
    )
    seed: int = Field(0, description="Seed of the cells of `semdedup` and of the draw of `random` (unconfirmed).")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rule == "random" and self.max_distance_to_centre is not None:
            raise ValueError("max_distance_to_centre has no meaning with rule random: it would change its removal rate")
        return self

    def content(self) -> dict[str, Any]:
        """Without fields that the chosen rule does not read, and without the names of the blocklist's files: the stage
        adds a hash of what these hold."""
        unused = {
            "connected_components": {"cells", "cell_iterations", "seed"},
            "random": {"cells", "cell_iterations"},
            "semdedup": set(),
        }[self.rule]
        return {name: value for name, value in super().content().items() if name not in {*unused, "blocklist"}}


class ClustersConfig(Section):
    """k-means on the kept image embeddings."""

    clusters: int = Field(
        256,
        description="Number of clusters. The paper's is not known; MLCD found 1M best for LAION-400M "
        "(proxy, unconfirmed).",
        ge=1,
    )
    iterations: int = Field(25, description="Lloyd iterations.", ge=1)
    spherical: bool = Field(True, description="Normalise centroids after each iteration.")
    seed: int = Field(0, description="Seed of the initial centroids and of the training sample.")
    train_samples: int | None = Field(
        None,
        description="Embeddings that k-means is fitted on; none means all. faiss would cap silently at 256 a cluster.",
    )


class ShardsConfig(Section):
    """Training shards: WebDataset tars of kept pairs with teacher embeddings and cluster label."""

    samples_per_shard: int = Field(1000, description="Samples in one tar.", ge=1, le=100_000)
    seed: int = Field(0, description="Seed of the global shuffle.")


class ChecksConfig(Section):
    """Bounds of the asset checks."""

    min_success_rate: float = runtime(0.5, "Least share of the pairs that must have been downloaded.", ge=0, le=1)
    max_group_share: float = runtime(0.05, "Largest share of all images that one group may hold.", gt=0, le=1)
    max_empty_clusters: float = runtime(0.01, "Largest share of clusters without an image.", ge=0, le=1)
    live_samples: int = runtime(
        24, "Samples whose teacher embeddings are computed anew and compared with those stored; 0 compares none.", ge=0
    )
    min_embedding_cosine: float = runtime(0.999, "Least cosine between the two.", le=1)
    min_export_cosine: float = runtime(0.9999, "Least cosine between embeddings before and after export.", le=1)
