"""What is asked of images that are there, and what can become of a sample among them."""

from typing import Any, Final, Literal

from pydantic import Field

from pipeline.core.settings import Section
from pipeline.source.carried import Carried, parse_carried
from pipeline.source.config import SourceConfig

Format = Literal["folder", "tars", "parquet"]

EXTENSIONS: Final = ("jpg", "jpeg", "png", "webp")
"""Of images, in any case; of a sample that has several, the first of these is its image."""

URL_KEYS: Final = ("url",)
CAPTION_KEYS: Final = ("caption", "text")
"""Names under which img2dataset and Hugging Face keep them, looked at where the asked ones are not there."""

UNUSED: Final = {
    "no_image": "There are members or a row of this key, but no jpg, jpeg, png or webp among them.",
    "no_caption": "No text beside the image, so that it is no pair.",
    "repeated_key": "Another member of the tar has this name; the first of them is of the sample with this key.",
    "repeated_image": "The same URL, or where none is known the same bytes, as of an earlier sample, which has its "
    "captions now.",
    "failed_to_read": "Damaged: JSON or text that is none, an image of no bytes or without a header.",
    "cut_short": "The tar ends, or cannot be read any further, within or before this sample.",
    "filtered": "None of its pairs is wanted (`source.where`).",
}
"""Why a sample became no image: the words of ``unused_images.reason``."""


class OwnImages(Section):
    """Values of the section `source` that say which images there are and how they are read."""

    images: list[str] = Field(min_length=1, description="Paths, globs, brace patterns or fsspec URLs.")
    images_format: Literal["auto", "folder", "tars", "parquet"] = "auto"
    image_column: str = "image"
    url_column: str = "URL"
    caption_columns: list[str] = Field(default=["TEXT"], min_length=1)
    columns: list[str] = Field(default=[], description="Carried along, as `name` or `name::TYPE`.")
    where: str | None = Field(default=None, description="Which pairs are used, as a condition of DuckDB's SQL.")
    samples_per_shard: int = Field(default=1000, ge=1, le=100_000)
    limit: int | None = Field(default=None, ge=1)

    @classmethod
    def of(cls, source: SourceConfig) -> "OwnImages":
        """What the section `source` says of them."""
        return cls(
            images=source.images,
            images_format=source.images_format,
            image_column=source.image_column,
            url_column=source.url_column,
            caption_columns=list(source.captions),
            columns=source.columns or [],
            where=source.where,
            samples_per_shard=source.samples_per_shard,
            limit=source.limit,
        )

    @property
    def carried(self) -> tuple[Carried, ...]:
        """The columns that are carried along."""
        return parse_carried(self.columns)

    @property
    def url_keys(self) -> tuple[str, ...]:
        """Where a URL may be, the first that is there counts."""
        return tuple(dict.fromkeys((self.url_column, *URL_KEYS)))

    def samples(self) -> dict[str, Any]:
        """What decides what is found in given files."""
        return {
            "image_column": self.image_column,
            "url_column": self.url_column,
            "caption_columns": self.caption_columns,
        }
