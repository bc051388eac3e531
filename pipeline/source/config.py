"""The section `source`."""

import codecs
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.core.settings import DEMO, Section
from pipeline.source.carried import Carried, parse_carried

_SINCE_FIRST: dict[str, Any] = {
    "quote": None,
    "delimiter": None,
    "escape": None,
    "encoding": "utf-8",
    "column_names": None,
    "caption_columns": None,
    "columns": None,
    "where": None,
    "skip_bad_lines": False,
}
_OF_IMAGES = ("images", "images_format", "image_column", "resize")


class SourceConfig(Section):
    """Lists of image URLs and captions."""

    lists: list[str] = Field(
        [DEMO],
        description="Paths, globs or fsspec URLs of the lists; `demo` stands for the built-in corpus.",
        min_length=1,
    )
    images: list[str] = Field(
        [],
        description="Images that are there, in place of `lists`: folders, WebDataset tars or Parquet with images, "
        "as paths, globs, brace patterns or fsspec URLs. Tars are read where they lie.",
    )
    images_format: Literal["auto", "folder", "tars", "parquet"] = Field(
        "auto", description="What these are; `auto` goes by the names."
    )
    image_column: str = Field("image", description="Column of Parquet files that holds the images.")
    resize: bool = Field(
        False, description="Bring images that are there to `images.image_size` too, in tars of ours; else they stay."
    )
    format: Literal["auto", "parquet", "csv", "tsv", "json"] = Field(
        "auto", description="Format of the lists; `auto` goes by the file name's ending."
    )
    url_column: str = Field("URL", description="Column that holds the image URL (LAION's name by default).")
    caption_column: str = Field("TEXT", description="Column that holds the caption (LAION's name by default).")
    caption_columns: list[str] | None = Field(
        None,
        description="Several columns that hold captions of the image, in place of `caption_column`.",
        min_length=1,
    )
    columns: list[str] | None = Field(
        None,
        description="Columns carried along into the table `source_attributes`, as `name` (its own type in Parquet, "
        "text in CSV, TSV and JSON) or `name::TYPE` (a cast of DuckDB's), such as [similarity, punsafe::DOUBLE].",
        min_length=1,
    )
    where: str | None = Field(
        None,
        description="Which pairs are used: a condition of DuckDB's SQL over `url`, `caption` and the carried columns, "
        "such as `similarity > 0.3 AND punsafe < 0.5`; null counts as false.",
        min_length=1,
    )
    column_names: list[str] | None = Field(
        None,
        description="Names of the columns of CSV or TSV that has no header line, such as [TEXT, URL] for CC3M; none "
        "means that the first line names them.",
        min_length=2,
    )
    delimiter: str | None = Field(
        None,
        description="What separates fields of CSV or TSV; none means `,` in CSV and a tabulator in TSV.",
        min_length=1,
        max_length=1,
    )
    quote: str | None = Field(
        None,
        description='What quotes fields of CSV or TSV, doubled for itself; none means `"` in CSV (RFC 4180), and no '
        "quotes in TSV.",
        max_length=1,
    )
    escape: str | None = Field(
        None,
        description="What makes the next character of a quoted field ordinary, such as a backslash; none means that a "
        "quotation mark is doubled.",
        min_length=1,
        max_length=1,
    )
    encoding: str = Field("utf-8", description="Encoding of CSV, TSV or JSON, by Python's name for it.")
    skip_bad_lines: bool = Field(
        False, description="Drop and count what cannot be read in a list, in place of ending with the first of it."
    )
    blocklist: list[str] = Field(
        [],
        description="Files of what must not even be asked for: as `balance.blocklist`, but for hashes, which are known "
        "when an image is there. Their content decides what is recomputed, not their names.",
    )
    samples_per_shard: int = Field(
        1000,
        description="Images in one shard, each with all its captions; a shard is the unit of work of all later stages.",
        ge=1,
        le=100_000,
    )
    limit: int | None = Field(None, description="Use only this many images, those with the smallest ids.", ge=1)

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"no encoding {encoding!r} is known to Python") from None
        return encoding

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        signs = [sign for sign in (self.delimiter, self.quote) if sign]
        if len(set(signs)) < len(signs) or {"\n", "\r"} & {*signs, self.escape}:
            raise ValueError("delimiter and quote must differ from each other, and none may be a line end")
        for name in ("column_names", "caption_columns"):
            names = getattr(self, name) or []
            if len(set(names)) < len(names):
                raise ValueError(f"{name} names one twice: {names}")
        parse_carried(self.columns or [])
        if self.images and self.blocklist:
            raise ValueError("source.blocklist is for lists; balance.blocklist blocks images that are there")
        return self

    @property
    def captions(self) -> list[str]:
        """Columns that hold captions."""
        return self.caption_columns or [self.caption_column]

    @property
    def carried(self) -> tuple[Carried, ...]:
        """The columns that are carried along."""
        return parse_carried(self.columns or [])

    def content(self) -> dict[str, Any]:
        """What decides the pairs of given lists. Settings that earlier versions had not are left out where they change
        nothing, so that what those made stays theirs."""
        unchanged = {name for name, default in _SINCE_FIRST.items() if getattr(self, name) == default}
        unused = {"caption_column"} if self.caption_columns else set()
        return self.model_dump(exclude={"lists", "blocklist", *_OF_IMAGES} | unchanged | unused)
