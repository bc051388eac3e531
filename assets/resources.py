"""The settings as a Dagster resource, derived field by field from the plain ones, so that there is one definition."""

import enum
import functools
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args, get_origin

import dagster as dg
import pydantic

from assets.settings import Settings, check_run, parse_settings
from pipeline.core.settings import PresetSection, Size, section_by_name


def _as_dagster(
    model: type[pydantic.BaseModel], base: type[Any], *, of_preset: bool = False, given: Mapping[str, Any] | None = None
) -> type[Any]:
    """A Dagster config class with the fields, defaults and descriptions of a plain model; ``given``: other defaults.

    Bounds are left out here: Dagster would report them as an error of a resource. ``resolve`` checks them.
    ``of_preset``: what is left out stays null, since Dagster fills in defaults, which would pass for the user's choice.
    """
    of_preset = of_preset or issubclass(model, PresetSection)
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        known = name in (given or {})
        annotation, default = field.annotation, (given or {}).get(name, field.default)
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            below = default if known else None
            annotation = _as_dagster(annotation, dg.Config, of_preset=of_preset, given=below)
            # A mapping, which Dagster takes as the default of what may be null.
            default = annotation().model_dump(mode="json")
        elif annotation is Size:
            # Dagster knows numbers and texts; `resolve` reads this text.
            annotation, default = str, str(default)
        elif get_origin(annotation) is list and get_origin(get_args(annotation)[0]) is Literal:
            # Dagster knows a choice, but no list of choices; here too `resolve` checks.
            annotation = list[str]
        elif get_origin(annotation) is Literal:
            annotation = _choice(annotation)
            default = cast(Any, annotation)(default) if (known or not of_preset) and default is not None else None
        elif section := section_by_name(annotation):
            annotation = cast(Any, dict)[str, _as_dagster(section, dg.Config)]
        if not field.is_required():
            # A null comes as far as `resolve`, which says in a line where it may not be; Dagster takes many.
            annotation = cast(Any, annotation) | None
            default = default if known or isinstance(default, dict) or not of_preset else None
        fields[name] = (annotation, pydantic.Field(default, description=field.description, validate_default=True))
    return pydantic.create_model(model.__name__, __base__=base, __doc__=model.__doc__, **fields)


def _choice(annotation: Any) -> type[enum.Enum]:
    """A choice in the one form of which Dagster knows that it may be null. It tells types apart by their names."""
    made: Any = enum.EnumType.__call__
    values = get_args(annotation)
    return cast(type[enum.Enum], made(enum.Enum, str(annotation).removeprefix("typing."), dict(zip(values, values))))


class SettingsResource(_as_dagster(Settings, dg.ConfigurableResource)):  # type: ignore[misc]
    """Every parameter of the pipeline. ``profiles/`` holds complete examples."""

    def resolve(self) -> Settings:
        """The plain settings, checked; raises :class:`pipeline.core.errors.PipelineError`.

        The first asset of a run that asks checks them for all that are to follow.
        """
        settings = parse_settings(self.model_dump(mode="json"))
        try:
            context = dg.AssetExecutionContext.get()
        except dg.DagsterInvariantViolationError:
            return settings
        selected = tuple(sorted(key.path[-1] for key in context.job_def.asset_layer.selected_asset_keys))
        _check_once(context.run_id, selected, settings.model_dump_json())
        return settings


def settings_resource(values: Mapping[str, Any]) -> SettingsResource:
    """One whose defaults are these settings where they say something, so that a run may change single fields."""
    found: type[SettingsResource] = _as_dagster(Settings, SettingsResource, given=values)
    return found()


@functools.lru_cache(maxsize=1)
def _check_once(run_id: str, selected: tuple[str, ...], settings: str) -> None:
    """Once a run: what is there at its start may be cleared away before its end."""
    check_run(Settings.model_validate_json(settings), selected)
