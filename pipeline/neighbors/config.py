"""The section `neighbors`."""

from typing import Literal

from pydantic import Field

from pipeline.core.settings import Section, Size, runtime


class NeighborsConfig(Section):
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
    memory_limit: Size = runtime(Size(4 * 10**9), "Refuse to start if the search could need more than this.", gt=0)
