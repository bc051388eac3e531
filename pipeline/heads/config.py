"""The settings of heads; they stand in the section `embeddings`, under `heads`, by name."""

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.core import schema
from pipeline.core.settings import Section

SOFTMAX = "softmax:"


class HeadConfig(Section):
    """A head on the image embeddings, linear or several linear layers, whose one number is a column of its name."""

    weights: str = Field(
        description="safetensors file of the layers, in the order of the numbers in their names: `0.weight`, `0.bias`, "
        "`2.weight`, ...; `weight` and `bias` for one alone. The first takes the width of the teacher's embeddings.",
        min_length=1,
    )
    activation: Literal["none", "relu", "gelu", "tanh", "sigmoid"] = Field(
        "none", description="Between layers. The usual aesthetic predictors have none."
    )
    normalize: bool = Field(
        True, description="Bring embeddings, stored as float16, to length 1 again in float32 before the first layer."
    )
    output: str = Field(
        "identity",
        description="`identity` or `sigmoid` of the one output, or `softmax:i`, the probability of output i, counted "
        "from 0.",
        pattern=rf"^(identity|sigmoid|{SOFTMAX}\d{{1,6}})$",
    )

    @property
    def index(self) -> int | None:
        """Which output a softmax is taken of; none where there is but one."""
        return int(self.output.removeprefix(SOFTMAX)) if self.output.startswith(SOFTMAX) else None


def _names(heads: dict[str, HeadConfig]) -> dict[str, HeadConfig]:
    """Columns that can be written without quotes, and that no other table has: tables are joined, and then filtered."""
    columns = {name for table in vars(schema).values() if isinstance(table, pa.Schema) for name in table.names}
    columns |= {name for table in _EMBEDDINGS for name in table(1).names}
    seen: dict[str, str] = {}
    for name in heads:
        if not (name.isascii() and name.isidentifier()):
            raise PydanticCustomError("head", f"{name!r} is no name of a column: letters, digits and _ are")
        if name.lower() in columns:
            raise PydanticCustomError("head", f"a column {name.lower()} is there already; give the head another name")
        if name.lower() in seen:
            raise PydanticCustomError("head", f"{seen[name.lower()]} and {name} differ in case alone")
        seen[name.lower()] = name
    return heads


_EMBEDDINGS = (schema.teacher_embeddings, schema.caption_embeddings, schema.teacher_views, schema.centroids)

Heads = Annotated[dict[str, HeadConfig], AfterValidator(_names)]
"""Heads by the names of their columns; DuckDB minds no case, so neither do these."""
