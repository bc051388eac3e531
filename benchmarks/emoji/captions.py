"""Captions by templates, from what Unicode and the vendors call an emoji. No chance: equal emoji, equal captions."""

from benchmarks.emoji.catalog import Emoji

PROMPTS = ("{c}", "an emoji of {c}", "the {c} emoji", "a picture of {c}")
"""Templates of zero-shot classification."""

_KEYWORDS = 4


def captions_of(emoji: Emoji, vendor: str) -> list[str]:
    """Captions of one image, without repeats: by its name alone, in sentences, with keywords, and by short names."""
    tone = f", {emoji.skin_tone} skin tone" if emoji.skin_tone else ""
    known = f"{emoji.name}: {', '.join(emoji.keywords[:_KEYWORDS])}" if emoji.keywords else emoji.name
    spoken = [name.replace("_", " ").replace("-", " ").strip() for name in emoji.short_names]
    captions = [
        emoji.name,
        f"an emoji of {emoji.name}",
        known,
        f"{emoji.subgroup.replace('-', ' ')}: {emoji.name}",
        f"the {emoji.name} emoji by {vendor.capitalize()}",
        *(f"{name}{tone}" for name in spoken),
    ]
    return list(dict.fromkeys(captions))
