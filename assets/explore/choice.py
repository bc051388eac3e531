"""A threshold that was chosen, as a config file for the next run."""

import os
from pathlib import Path

import yaml

from pipeline.core.errors import ConfigError

_HEAD = """\
# Chosen by clip-cid explore. It stands after your own config, whose threshold it replaces:
#   dagster job execute -m assets.definitions -j clip_cid -c YOURS.yaml -c {name}
# For the demo, or where nothing else is set, it is a config of its own.
"""
_WHOLE = "# Chosen by clip-cid explore: {base} with another threshold.\n"


def write_choice(path: Path, root: str, threshold: float, *, base: Path | None = None, replace: bool = False) -> str:
    """Write a config with ``balance.threshold`` to ``path`` and return its text; ``base``: a config that it is else.

    The file appears whole. Raises :class:`ConfigError` for one that is there, unless ``replace``, for a threshold that
    cannot be one, and for a ``base`` that is wrong.
    """
    if not 0 < threshold < 2:
        raise ConfigError(f"balance.threshold must lie in (0, 2); {threshold:g} does not")
    text = _text(path, root, threshold, base)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        if replace:
            temporary.replace(path)
        else:
            # Not renamed, which would take the place of a file that has come there meanwhile.
            os.link(temporary, path)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists and was left as it is") from error
    finally:
        temporary.unlink(missing_ok=True)
    return text


def _text(path: Path, root: str, threshold: float, base: Path | None) -> str:
    if base is None:
        settings = {"root": root, "balance": {"threshold": threshold, "target_removal": None}}
        config = {"resources": {"settings": {"config": settings}}}
        return _HEAD.format(name=path.name) + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    # The whole of the settings, which nothing else here needs.
    from assets.run_config import as_run_config, read_run_config
    from assets.settings import parse_settings

    values = read_run_config(base).model_dump(mode="json")
    values["balance"] |= {"threshold": threshold, "target_removal": None}
    return _WHOLE.format(base=base.name) + as_run_config(parse_settings(values))
