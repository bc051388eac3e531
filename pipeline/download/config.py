"""The section `images`."""

from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.core.settings import Section, runtime
from pipeline.web.outcomes import Failure
from pipeline.web.rules import trusted


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
        description="Opt-outs in the `X-Robots-Tag` header that are honored.",
    )
    robots_txt: bool = Field(
        False, description="Ask each site's robots.txt, once per process, and honor it. Costs a request per site."
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
    worker_restarts: int = runtime(
        2, "How often a shard may lose its worker, with no sample to blame, before the stage gives up.", ge=0
    )
    success_floor: float = runtime(0.05, "Share of a shard's pairs below which it counts as bad.", ge=0, le=1)
    bad_shards: int = runtime(
        5,
        "Stop after this many bad shards in a row, look for the cause, and publish none of them; 0 never stops.",
        ge=0,
    )
    retry_statuses: list[Failure] = runtime(
        [], "Fetch pairs of these statuses again, in shards that are done too; images that are there stay as they are."
    )

    def resizing(self) -> dict[str, Any]:
        """How an image is brought to its stored form: arguments of ``pipeline.download.resize.Resizer``."""
        return {
            "image_size": self.image_size,
            "mode": self.resize_mode,
            "only_if_bigger": self.resize_only_if_bigger,
            "quality": self.encode_quality,
            "min_size": self.min_image_size,
            "max_area": self.max_image_area,
            "max_aspect_ratio": self.max_aspect_ratio,
        }

    @field_validator("connect_to")
    @classmethod
    def _trusted(cls, connect_to: dict[str, str]) -> dict[str, str]:
        return trusted(connect_to)
