"""A data set of one's own in one's own code location: all assets under a prefix, with settings of their own."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg

from assets.jobs import jobs_of
from assets.resources import settings_resource
from assets.settings import parse_settings
from pipeline.core.errors import ConfigError


def clip_cid_assets(name: str, settings: Mapping[str, Any]) -> dg.Definitions:
    """All assets, checks and jobs of one data set, to be merged with others: assets ``<name>/images`` and so on, in
    groups ``<name>_curation`` and ``<name>_distillation``, jobs ``<name>_clip_cid``, ``<name>_curate``, ...

    Args:
        name: letters, digits and underscores; one that no other data set of the location has.
        settings: as in a run config, under ``resources: settings: config``. ``root`` is ``data/<name>`` if not given.
            A run may change them under ``resources: <name>_settings: config``; one that does not has these, whichever
            assets it is of.

    Raises:
        ConfigError: for a name or a setting that is wrong; all wrong settings are named.
    """
    from assets.definitions import defs

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConfigError(
            f"a data set's name has letters, digits and underscores, and begins with a letter: got {name!r}"
        )
    values = {"root": f"data/{name}", **settings}
    parse_settings(values)
    place = f"{name}_settings"
    own = [found for found in defs.assets or () if isinstance(found, dg.AssetsDefinition)]
    checks = [found for found in defs.asset_checks or () if isinstance(found, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=[_asset(found, name, place) for found in own],
        asset_checks=[_check(found, name, place) for found in checks],
        jobs=jobs_of(name),
        resources={place: settings_resource(values)},
        executor=dg.in_process_executor,
    )


def _asset(found: dg.AssetsDefinition, name: str, place: str) -> dg.AssetsDefinition:
    specs = [
        spec.replace_attributes(
            key=spec.key.with_prefix(name),
            group_name=f"{name}_{spec.group_name}",
            deps=[dg.AssetDep(dep.asset_key.with_prefix(name)) for dep in spec.deps],
        )
        for spec in found.specs
    ]
    compute = _bound(_function(found), name, place)

    def run(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from compute(context)

    return dg.multi_asset(
        name=f"{name}__{found.op.name}",
        specs=specs,
        description=found.op.description,
        required_resource_keys={place},
        pool=found.op.pool,
    )(run)


def _check(found: dg.AssetsDefinition, name: str, place: str) -> dg.AssetChecksDefinition:
    specs = [spec._replace(asset_key=spec.asset_key.with_prefix(name)) for spec in found.check_specs]
    compute = _bound(_function(found), name, place)

    def run(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        yield from compute(context)

    return dg.multi_asset_check(name=f"{name}__{found.op.name}", specs=specs, required_resource_keys={place})(run)


def _function(found: dg.AssetsDefinition) -> Callable[..., Any]:
    function: Callable[..., Any] = found.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    return function


def _bound(function: Callable[..., Any], name: str, place: str) -> Callable[[Any], Iterator[Any]]:
    """What the function gives for the settings at ``place``, with the keys that it names under the prefix."""
    wants_context = "context" in inspect.signature(function).parameters

    def compute(context: Any) -> Iterator[Any]:
        given = {"settings": getattr(context.resources, place), **({"context": context} if wants_context else {})}
        found = function(**given)
        for event in found if inspect.isgenerator(found) else [found]:
            key = getattr(event, "asset_key", None)
            yield event._replace(asset_key=key.with_prefix(name)) if key else event

    return compute
