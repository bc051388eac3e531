"""Hashes of values and files, and files that appear whole, whatever ends the process or the machine."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
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


def file_checksum(path: Path) -> int:
    """A CRC32 of a file's bytes: four times as fast as a digest, and enough to tell damage, though not intent."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def file_identity(path: Path, *, name: str | None = None) -> list[Any]:
    """What tells a file from one that took its place: its name (its whole path if none is given), size and time."""
    state = path.stat()
    return [name or str(path.resolve()), state.st_size, state.st_mtime_ns]


def write_text_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        move_into_place({path: temporary})
    except OSError:
        # On a full disk what was written of it would only take more room.
        temporary.unlink(missing_ok=True)
        raise


def move_into_place(files: Mapping[Path, Path]) -> None:
    """Move each file to its name, whose folder is made if need be, so that it outlasts a loss of power whole.

    A file system may keep a new name before the bytes: what is renamed unsynced can come back empty. So bytes are
    brought to the disk first, then names.
    """
    for source in files.values():
        sync(source)
    folders = set[Path]()
    for target, source in files.items():
        folders |= {parent.parent for parent in target.parents if not parent.exists()} | {target.parent}
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    for folder in folders:
        sync(folder)


def sync(path: Path) -> None:
    """Bring a file's bytes, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Network file systems may not know it of folders, nor need it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)
