"""What the tables do not hold: the settings of the job that wrote a report, and the libraries that it used."""

import dataclasses
import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from assets.page.report.document import Html, details, note, section, table, tag
from assets.settings import Settings
from pipeline.core.errors import ConfigError
from pipeline.storage.completion import REMEMBERED
from pipeline.storage.protocol import Storage

_PLACE = f"{REMEMBERED}/run.json"
_LIBRARIES = (
    *("clip-cid", "dagster", "deepspeed", "duckdb", "faiss-cpu", "faiss-gpu", "img2dataset", "matplotlib", "numpy"),
    *("open_clip_torch", "pillow", "pyarrow", "ray", "scipy", "torch", "torchvision", "webdataset"),
)
_HIDDEN = "(not shown)"
# A user and password in a URL, and what a signed one is signed with.
_USER, _QUERY = re.compile(r"(://)[^/@\s]+@"), re.compile(r"(://[^\s?]+\?)\S+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Of the last job that came to its report. ``settings``: without credentials. ``stages``: names of
    the assets that the job was to make."""

    job: str
    settings: dict[str, Any]
    stages: list[str]
    libraries: dict[str, str]
    machine: str

    @classmethod
    def of_job(cls, job: str, stages: list[str], config: Settings) -> "Provenance":
        """That of a job of this machine, now."""
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        settings = without_credentials(config.model_dump(mode="json"))
        return cls(job=job, settings=settings, stages=sorted(stages), libraries=_libraries(), machine=machine)

    def remember(self, storage: Storage) -> None:
        storage.write_text(_PLACE, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def recorded(cls, storage: Storage) -> "Provenance | None":
        """None if no job has left one, or an earlier version one that is not understood any more."""
        try:
            return cls(**json.loads(storage.texts([_PLACE])[_PLACE]))
        except (KeyError, ValueError, TypeError):
            return None


def without_credentials(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that may be shown to anybody: no options of an object store, and no passwords or signatures in URLs."""
    shown = _stripped(settings)
    options = shown["storage"]["options"]
    return shown | {"storage": shown["storage"] | {"options": dict.fromkeys(options, _HIDDEN)}}


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stripped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return _QUERY.sub(rf"\1{_HIDDEN}", _USER.sub(r"\1", value)) if isinstance(value, str) else value


def _libraries() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def config_section(run: Provenance | None) -> Html:
    """What differs from the defaults, then all of it."""
    if run is None:
        return section("config", "Config", note("Not known: no job has left its settings with this root."))
    defaults = Settings().model_dump(mode="json")
    changed = [row for row in _differences(run.settings, defaults) if row[0] != "root"]
    parts: list[Html] = [
        table(("setting", "value", "default"), changed) if changed else note("Every setting has its default.")
    ]
    whole = yaml.safe_dump(run.settings, sort_keys=False, width=110)
    return section("config", "Config", *parts, details("all settings", tag("pre", whole)))


def versions_section(run: Provenance | None) -> Html:
    if run is None:
        return section("versions", "Versions", note("Not known: no job has left them with this root."))
    said = note(
        f"Of the process that ran the job {run.job}: {run.machine}. Stages that were done before may have others."
    )
    return section("versions", "Versions", said, table(("library", "version"), run.libraries.items()))


def _differences(values: Any, defaults: Any, name: str = "") -> list[tuple[str, str, str]]:
    if isinstance(values, dict) and isinstance(defaults, dict) and defaults:
        keys = [*values, *(key for key in defaults if key not in values)]
        return [
            row
            for key in keys
            for row in _differences(values.get(key), defaults.get(key), f"{name}.{key}".removeprefix("."))
        ]
    return [] if values == defaults else [(name, _written(values), _written(defaults))]


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def threshold_source(run: Provenance | None, stats: dict[str, Any]) -> str:
    """Which setting the threshold of a balance comes from."""
    if run is None:
        return "not known: no job has left its settings with this root"
    try:
        config = Settings.model_validate({"balance": run.settings["balance"]}).balance
    except (KeyError, ValueError, ConfigError):
        return "not known: the settings that were left here are of another version"
    if config.removal is None:
        if config.threshold == stats["threshold"]:
            return "given as balance.threshold"
        return f"not known: the last job had {config.threshold:g}, this balance is of another"
    if config.target_removal is not None:
        return f"solved for balance.target_removal {config.target_removal:g}"
    return f"solved for {config.removal:g}, the share that the paper removed: no threshold and no share were given"
