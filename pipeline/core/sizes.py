"""Sizes in settings: ``512MB``, ``4GB``, ``1.5TB``, in powers of 1000."""

import re
from typing import Any

from pydantic import ByteSize, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.core.errors import ConfigError

_TEXT = re.compile(r"\s*\d+(\.\d+)?\s*([KMGTPE]?i?B|[KMGTPE])?\s*", re.IGNORECASE)
_UNITS = ("TB", "GB", "MB", "KB")


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
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise PydanticCustomError("size", "Input should be a size such as 512MB or 4GB")
    return value
