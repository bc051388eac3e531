"""Settings of the data stages. Every default is the built-in demo's; ``profiles/`` holds those of real data sets.

A field marked *runtime* says how fast or where something is made, not what: changing it recomputes nothing.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

DEMO = "demo"
"""The name of the built-in corpus, teacher, student and evaluation set, wherever a path or model name may stand."""


class Section(BaseModel):
    """A frozen group of settings; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def content(self) -> dict[str, Any]:
        """The fields that decide what a stage makes, for its fingerprint, under the names that they had at first."""
        fields = {name: field for name, field in type(self).model_fields.items() if not is_runtime(field)}
        values = {_first_name(name, field): getattr(self, name) for name, field in fields.items()}
        return {name: value.content() if isinstance(value, Section) else value for name, value in values.items()}


def runtime(default: Any, description: str, **constraints: Any) -> Any:
    """A field that does not enter fingerprints."""
    return Field(default, description=description, json_schema_extra={"runtime": True}, **constraints)


def renamed(was: str) -> dict[str, Any]:
    """For ``json_schema_extra`` of a field that once had another name, so that fingerprints stay what they were."""
    return {"was": was}


def _first_name(name: str, field: Any) -> str:
    extra = field.json_schema_extra
    return str(extra["was"]) if isinstance(extra, dict) and "was" in extra else name


def is_runtime(field: Any) -> bool:
    """Whether a field was declared with :func:`runtime`."""
    return bool(isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("runtime"))
