"""The settings as a Dagster resource, derived field by field from the plain ones, so that there is one definition."""

from typing import Any, Literal, get_args, get_origin

import dagster as dg
import pydantic

from assets.settings import Settings, parse_settings
from pipeline.core.settings import Size


def _as_dagster(model: type[pydantic.BaseModel], base: type[Any]) -> type[Any]:
    """A Dagster config class with the fields, defaults and descriptions of a plain model.

    Bounds are left out here: Dagster would report them as an error of a resource. ``resolve`` checks them.
    """
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        annotation, default = field.annotation, field.default
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            annotation = _as_dagster(annotation, dg.Config)
            default = annotation(**default.model_dump())
        elif annotation is Size:
            # Dagster knows numbers and texts; `resolve` reads this text.
            annotation, default = str, str(default)
        elif get_origin(annotation) is list and get_origin(get_args(annotation)[0]) is Literal:
            # Dagster knows a choice, but no list of choices; here too `resolve` checks.
            annotation = list[str]
        fields[name] = (annotation, pydantic.Field(default, description=field.description))
    return pydantic.create_model(model.__name__, __base__=base, __doc__=model.__doc__, **fields)


class SettingsResource(_as_dagster(Settings, dg.ConfigurableResource)):  # type: ignore[misc]
    """Every parameter of the pipeline. ``profiles/`` holds complete examples."""

    def resolve(self) -> Settings:
        """The plain settings, checked; raises :class:`pipeline.core.errors.ConfigError`."""
        return parse_settings(self.model_dump())
