"""Hashes of values and files, and a file that is replaced whole."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def fingerprint_of(*parts: Any) -> str:
    """A short hash of JSON-like values; equal values give equal hashes on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """A hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def file_identity(path: Path, *, name: str | None = None) -> list[Any]:
    """What tells a file from one that took its place: its name (its whole path if none is given), size and time."""
    state = path.stat()
    return [name or str(path.resolve()), state.st_size, state.st_mtime_ns]


def write_text_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
