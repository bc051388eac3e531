"""What a job has drawn and compared, kept with what it was made from: an unchanged run does neither again."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.files import file_digest, file_identity, fingerprint_of
from pipeline.storage.completion import REMEMBERED
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of


def remembered(
    root: Path, name: str, made_from: Any, make: Callable[[], dict[str, Any]], *, files: Sequence[str] = ()
) -> dict[str, Any]:
    """What ``make`` returns, which is JSON-like; or has returned, if it was made from the same by the same code.

    ``files`` are names under the root that it has to have left there.
    """
    storage, place = storage_of(root), f"{REMEMBERED}/{name}.json"
    fingerprint = fingerprint_of(_code(), made_from)
    known = json.loads(storage.texts([place]).get(place, "{}"))
    if known.get("fingerprint") == fingerprint and len(storage.sizes(files)) == len(files):
        return dict(known["content"])
    content = make()
    storage.write_text(place, json.dumps({"fingerprint": fingerprint, "content": content}))
    return content


def as_it_lies(result: StageResult) -> list[Any]:
    """What a stage holds, and its files as they are: one that took the place of another has another time."""
    if storage_of(result.root).remote:
        return [result.digest]
    return [result.digest, [file_identity(result.root / name, name=name) for name in result.sizes]]


@functools.cache
def _code() -> list[str]:
    return [file_digest(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
