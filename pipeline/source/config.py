"""The section `source`."""

from typing import Literal

from pydantic import Field

from pipeline.core.settings import DEMO, Section


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
    quote: str | None = Field(
        None,
        description='What quotes fields of CSV or TSV, doubled for itself; none means `"` in CSV (RFC 4180), and no '
        "quotes in TSV.",
        max_length=1,
    )
    samples_per_shard: int = Field(
        1000, description="Pairs in one shard; a shard is the unit of work of all later stages.", ge=1, le=100_000
    )
    limit: int | None = Field(None, description="Use only this many pairs, those with the smallest ids.", ge=1)
