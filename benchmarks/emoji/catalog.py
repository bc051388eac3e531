"""Which emoji there are, and what each is called: Unicode's CLDR names and keywords beside the vendors' short names."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import SourceError

VENDORS = ("apple", "facebook", "google", "twitter")

_TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji, with one choice of skin tones.

    ``code`` is its code points without variation selectors; ``name`` and ``keywords`` are CLDR's, ``category`` and
    ``subgroup`` Unicode's, ``skin_tone`` empty without one; ``image`` is the file name that all of ``vendors`` use.
    """

    code: str
    name: str
    short_names: tuple[str, ...]
    keywords: tuple[str, ...]
    category: str
    subgroup: str
    skin_tone: str
    image: str
    vendors: tuple[str, ...]


def code_of(text: str) -> str:
    """Code points in hexadecimal without variation selectors, by which packages differ: ``0023-20E3``."""
    return "-".join(point for point in text.upper().split("-") if point != "FE0F")


def read_catalog(datasource: Path, cldr: Path) -> list[Emoji]:
    """All emoji in the order of the list.

    Args:
        datasource: ``emoji.json`` of emoji-datasource or of one of its vendors' packages.
        cldr: ``en/data.json`` of emojibase-data.

    Raises:
        SourceError: an emoji without a CLDR name.
    """
    names = dict(_names(json.loads(cldr.read_text())))
    catalog = []
    for entry in json.loads(datasource.read_text()):
        for tones, variant in [("", entry), *entry.get("skin_variations", {}).items()]:
            code = code_of(variant["unified"])
            if code not in names:
                raise SourceError(f"{cldr}: no name for {code}, {entry['name']!r} of {datasource}")
            name, keywords = names[code]
            tone = ", ".join(_TONES[tone] for tone in tones.split("-")) if tones else ""
            # CLDR's names of people who face right leave it out.
            missing = f": {tone} skin tone" if tone and "skin tone" not in name else ""
            catalog.append(
                Emoji(
                    code=code,
                    name=name + missing,
                    short_names=tuple(entry["short_names"]),
                    keywords=keywords,
                    category=entry["category"],
                    subgroup=entry["subcategory"],
                    skin_tone=tone,
                    image=variant["image"],
                    vendors=tuple(vendor for vendor in VENDORS if variant[f"has_img_{vendor}"]),
                )
            )
    return catalog


def _names(entries: list[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    for entry in entries:
        keywords = tuple(entry.get("tags", ()))
        for variant in (entry, *entry.get("skins", ())):
            yield code_of(variant["hexcode"]), (variant["label"], keywords)
