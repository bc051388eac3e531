"""The files with images: found by path, glob, braces or URL, and told apart by what they are."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec

from pipeline.core.errors import SourceError, brief
from pipeline.core.files import fingerprint_of
from pipeline.own_images.config import EXTENSIONS, Format, OwnImages

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A file: ``name`` as it is spoken of and found again, ``path`` in its ``filesystem``; ``identity``: what tells it
    from one that took its place, without reading it."""

    name: str
    filesystem: Any
    path: str
    identity: str

    @property
    def local(self) -> bool:
        return "file" in self.filesystem.protocol

    def open(self) -> IO[bytes]:
        opened: IO[bytes] = (Path(self.path).open if self.local else partial(self.filesystem.open, self.path))("rb")
        return opened


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One of the things that were asked for: a tar, a Parquet file, or all files of a folder at ``path``."""

    format: Format
    name: str
    path: str
    files: tuple[Place, ...]


def find_images(config: OwnImages, root: Path) -> list[Source]:
    """What the patterns stand for, in their order and sorted by name within each; what stands there twice, once.

    Raises :class:`SourceError` for a pattern that matches nothing, and for what is no folder, tar or Parquet file.
    """
    found: dict[str, Source] = {}
    for pattern in config.images:
        for source in _found(pattern, config, root):
            found.setdefault(source.name, source)
    return list(found.values())


def expand(pattern: str) -> list[str]:
    """Braces written out: ``{00..02}`` to 00, 01, 02, and ``{a,b}`` to a, b; other braces stand for themselves."""
    parts: list[list[str]] = []
    position = 0
    for match in _BRACES.finditer(pattern):
        numbers = _RANGE.fullmatch(match[1])
        if numbers:
            first, last = numbers.groups()
            chosen = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
            if not chosen:
                raise SourceError(f"images {pattern!r}: {match[0]} is an empty range")
        elif "," in match[1]:
            chosen = match[1].split(",")
        else:
            continue
        parts += [[pattern[position : match.start()]], chosen]
        position = match.end()
    return ["".join(chosen) for chosen in itertools.product(*parts, [pattern[position:]])]


def _found(pattern: str, config: OwnImages, root: Path) -> Iterator[Source]:
    # Before fsspec looks at it: in a URL `::` joins file systems, in the name of a file it is two colons.
    if Path(pattern).exists():
        yield from _sources(fsspec.filesystem("file"), [str(Path(pattern).absolute())], pattern, config, root)
        return
    for text in expand(pattern):
        try:
            filesystem, path = fsspec.core.url_to_fs(text)
            # What was replaced since this process last looked must be seen.
            filesystem.invalidate_cache()
            names = [path]
            if fsspec.core.has_magic(path) and not filesystem.exists(path):
                names = sorted(filesystem.glob(path))
            elif not filesystem.exists(path):
                names = []
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"images {text!r}: cannot be reached: {brief(error)}") from error
        if not names:
            raise SourceError(f"images {text!r}: no such file or folder")
        yield from _sources(filesystem, names, text, config, root)


def _sources(filesystem: Any, names: Sequence[str], pattern: str, config: OwnImages, root: Path) -> Iterator[Source]:
    passed: list[str] = []
    for name in names:
        info = filesystem.info(name)
        if info["type"] == "directory":
            yield from _in_folder(filesystem, name, config, root)
        elif (format_ := _format(name, config)) is None:
            passed.append(name)
        else:
            yield _one(format_, _place(filesystem, name, info, root))
    # What a glob finds beside tars, such as their statistics, is passed over; alone it is a mistake.
    if len(passed) == len(names):
        raise SourceError(f"images {pattern!r}: {passed[0]} is no folder, .tar or .parquet; set source.images_format")


def _in_folder(filesystem: Any, folder: str, config: OwnImages, root: Path) -> Iterator[Source]:
    """A folder of images, or the tars or Parquet files in it."""
    infos = filesystem.find(folder, detail=True)
    places = [_place(filesystem, name, infos[name], root) for name in sorted(infos)]
    by_format: dict[Format, list[Place]] = {"folder": [], "tars": [], "parquet": []}
    for place in places:
        ending = PurePosixPath(place.path).suffix.lower()
        if ending[1:] in EXTENSIONS and not is_foreign(place.path):
            by_format["folder"].append(place)
        elif ending in (".tar", ".parquet"):
            by_format["tars" if ending == ".tar" else "parquet"].append(place)
    chosen = config.images_format
    if chosen == "auto":
        # img2dataset leaves a table beside each tar.
        stems = {place.path[: -len(".tar")] for place in by_format["tars"]}
        if stems and all(place.path[: -len(".parquet")] in stems for place in by_format["parquet"]):
            by_format["parquet"] = []
        kinds = [format_ for format_, found in by_format.items() if found]
        if len(kinds) > 1:
            counts = ", ".join(f"{len(found)} for {format_}" for format_, found in by_format.items() if found)
            raise SourceError(f"images {folder}: a folder of several things ({counts}); set source.images_format")
        if not kinds:
            raise SourceError(f"images {folder}: no jpg, jpeg, png, webp, tar or Parquet file in {len(places)} files")
        chosen = kinds[0]
    if not by_format[chosen]:
        raise SourceError(f"images {folder}: a folder without a file for source.images_format: {chosen}")
    if chosen == "folder":
        yield Source(format="folder", name=filesystem.unstrip_protocol(folder), path=folder, files=tuple(places))
    else:
        yield from (_one(chosen, place) for place in by_format[chosen])


def is_foreign(path: str) -> bool:
    """Whether a file is one that systems leave beside others: hidden ones, and those of macOS."""
    parts = PurePosixPath(path).parts
    return parts[-1].startswith(".") or "__MACOSX" in parts


def _one(format_: Format, place: Place) -> Source:
    return Source(format=format_, name=place.name, path=place.path, files=(place,))


def _format(name: str, config: OwnImages) -> Format | None:
    lower = name.lower()
    if lower.endswith(_COMPRESSED):
        raise SourceError(f"images {name}: a compressed tar cannot be read from the middle; decompress it")
    if config.images_format in ("tars", "parquet"):
        return config.images_format
    if config.images_format == "folder":
        return None
    return "tars" if lower.endswith(".tar") else "parquet" if lower.endswith(".parquet") else None


def _place(filesystem: Any, path: str, info: dict[str, Any], root: Path) -> Place:
    """A file under the root is named from there, so that the root can be moved."""
    name = filesystem.unstrip_protocol(path)
    if "file" in filesystem.protocol:
        name, absolute = path, Path(path)
        if absolute.is_relative_to(root.absolute()):
            name = absolute.relative_to(root.absolute()).as_posix()
    changed = str(info.get("mtime") or info.get("ETag") or info.get("LastModified"))
    return Place(name=name, filesystem=filesystem, path=path, identity=fingerprint_of(name, info.get("size"), changed))


def place_of(name: str, root: Path) -> Place:
    """The file that was called so; from the root, if it is no whole path."""
    filesystem, path = (
        fsspec.core.url_to_fs(name) if "://" in name else (fsspec.filesystem("file"), str(root.absolute() / name))
    )
    return Place(name=name, filesystem=filesystem, path=path, identity="")
