"""Settings of the data stages. Every default is the built-in demo's; ``profiles/`` holds those of real data sets.

A field marked *runtime* says how fast or where something is made, not what: changing it recomputes nothing. Sizes are
texts such as ``512MB``, ``4GB``, ``1.5TB``, in powers of 1000.
"""

import re
from typing import Any, ClassVar, TypeGuard, get_args, get_origin

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.core.errors import ConfigError

DEMO = "demo"
"""The name of the built-in corpus, teacher, student and evaluation set, wherever a path or model name may stand."""

_TEXT = re.compile(r"\s*\d+(\.\d+)?\s*([KMGTPE]?i?B|[KMGTPE])?\s*", re.IGNORECASE)
_UNITS = ("TB", "GB", "MB", "KB")


class Section(BaseModel):
    """A frozen group of settings; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic takes true for 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)}
        if isinstance(value, bool) and bool not in kinds and any(issubclass(kind, int | float) for kind in kinds):
            raise PydanticCustomError("number", "Input should be a number")
        return value

    def content(self) -> dict[str, Any]:
        """The fields that decide what a stage makes, for its fingerprint, under the names that they had at first."""
        fields = {name: field for name, field in type(self).model_fields.items() if not is_runtime(field)}
        values = {_first_name(name, field): getattr(self, name) for name, field in fields.items()}
        return {name: _content(value) for name, value in values.items()}


class PresetSection(Section):
    """A section with a field ``preset``: what is left out, or null, below it is the preset's, or else the default."""

    presets: ClassVar[dict[str, dict[str, Any]]]
    """By name, the fields in which it differs from the defaults."""

    @model_validator(mode="before")
    @classmethod
    def _over_the_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("preset") or cls.model_fields["preset"].default
        return overlaid(cls.presets.get(str(name), {}), _without_nulls(given, cls))

    def content(self) -> dict[str, Any]:
        """As of every section. The name of a preset says nothing that its values do not."""
        return {name: value for name, value in super().content().items() if name != "preset"}


def overlaid(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values with others over them, field by field."""
    result = dict(values)
    for name, change in changes.items():
        below = result.get(name)
        result[name] = overlaid(below, change) if isinstance(below, dict) and isinstance(change, dict) else change
    return result


def _without_nulls(values: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """What was given of a section. Names that it has not stay, to be refused."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        field = section.model_fields.get(name)
        if isinstance(value, Section):
            given[name] = value.model_dump(exclude_unset=True)
        elif isinstance(value, dict) and field and _is_section(field.annotation):
            given[name] = _without_nulls(value, field.annotation)
        elif value is not None or not field:
            given[name] = value
    return given


def _is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _content(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _content(item) for name, item in value.items()}
    return value.content() if isinstance(value, Section) else value


def runtime(default: Any, description: str, **constraints: Any) -> Any:
    """A field that does not enter fingerprints."""
    return Field(default, description=description, json_schema_extra={"runtime": True}, **constraints)


def renamed(was: str) -> dict[str, Any]:
    """For ``json_schema_extra`` of a field that once had another name, so that fingerprints stay what they were."""
    return {"was": was}


def section_by_name(annotation: Any) -> type[Section] | None:
    """The section of which a field has any number, each under a name that the user gives: ``dict[str, Section]``."""
    kind = get_args(annotation)[1] if get_origin(annotation) is dict else None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _first_name(name: str, field: Any) -> str:
    extra = field.json_schema_extra
    return str(extra["was"]) if isinstance(extra, dict) and "was" in extra else name


def is_runtime(field: Any) -> bool:
    """Whether a field was declared with :func:`runtime`."""
    return bool(isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("runtime"))


class Size(ByteSize):
    """pydantic's ``ByteSize``, a number of bytes, that is written as it is read and takes nothing but sizes.

    pydantic reads as far as it understands, so that ``4,5GB`` would be 4 bytes, and writes a bare number.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            _checked,
            super().__get_pydantic_core_schema__(source, handler),
            serialization=core_schema.to_string_ser_schema(when_used="always"),
        )

    def __str__(self) -> str:
        """Exact, in the largest unit of which it is a whole number."""
        for unit in _UNITS:
            if self and not self % int(self.byte_sizes[unit.lower()]):
                return f"{self // int(self.byte_sizes[unit.lower()])}{unit}"
        return f"{int(self)}B"


def parse_size(value: int | str, *, what: str) -> int:
    """Bytes of a number of them or of a size as settings have it; :class:`ConfigError` names ``what`` is no size."""
    try:
        return int(TypeAdapter(Size).validate_python(value))
    except ValidationError as error:
        raise ConfigError(f"{what}: {error.errors()[0]['msg']}, got {value!r}") from error


def _checked(value: Any) -> Any:
    if not isinstance(value, str | int) or (isinstance(value, str) and not _TEXT.fullmatch(value)):
        raise PydanticCustomError("size", "Input should be a size such as 512MB or 4GB")
    return value
