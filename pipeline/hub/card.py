"""Cards: YAML that the Hub understands, then Markdown in which no value of the data means anything."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pipeline.core.errors import ConfigError, brief

if TYPE_CHECKING:
    from huggingface_hub import CardData

CARD_FILE = "README.md"

Kind = Literal["model", "dataset"]

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Anything else may mean something in Markdown or HTML: tables, links, and addresses that become links by themselves.
_MEANS_SOMETHING = re.compile(r"[^\w ,-]|_")
_SHOWN: Final = 80


def check_license(license: str | None) -> None:
    """Raise :class:`ConfigError` for what cannot be an identifier of a license on the Hub."""
    if license is not None and not _LICENSE.fullmatch(license):
        raise ConfigError(f"license {license!r} is no identifier of the Hub, such as apache-2.0, cc-by-4.0 or other")


def check_hub_ids(ids: Sequence[str], *, what: str) -> None:
    """Raise :class:`ConfigError` for names that are not of the form ``owner/name``."""
    for name in ids:
        if not _HUB_ID.fullmatch(name):
            raise ConfigError(f"{what} {name!r} is no name on the Hub, such as owner/name")


def escaped(value: object) -> str:
    """A text of unknown origin as Markdown that shows it and does nothing else, cut where it is long."""
    text = " ".join(str(value).split())
    text = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return _MEANS_SOMETHING.sub(lambda found: f"&#{ord(found[0])};", text)


def short_name(model: str) -> str:
    """The name of a model; of a path, which is of one machine, the end."""
    return Path(model).name if ("/" in model and ":" not in model) or Path(model).exists() else model


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are written as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def rendered(data: "CardData", body: str) -> str:
    """A whole card."""
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n{body}"


def parse_card(text: str, kind: Kind, *, where: str) -> "tuple[Any, str]":
    """The data (``ModelCardData`` or ``DatasetCardData``) and the Markdown of a card.

    Raises :class:`ConfigError` for YAML that is none, and for evaluation results that are not those of a model index.
    """
    from huggingface_hub import DatasetCard, ModelCard

    try:
        card = (ModelCard if kind == "model" else DatasetCard)(text)
    except Exception as error:
        # yaml's own errors, and whatever the classes of the Hub make of other types.
        raise ConfigError(f"{where}: the YAML at its head is no metadata of a card: {brief(error)}") from error
    return card.data, card.text


def read_card(folder: Path, kind: Kind) -> "Any | None":
    """The data of the card in a folder; none without a card, or where it has no YAML at its head."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    return parse_card(text, kind, where=str(path))[0] if text.startswith("---") else None
