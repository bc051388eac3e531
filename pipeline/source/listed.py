"""The files of lists: found by path, glob or URL, told apart by their endings, opened as bytes or text."""

import codecs
import contextlib
import dataclasses
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import duckdb
import fsspec
import pyarrow as pa

from pipeline.core.errors import SourceError
from pipeline.core.files import file_digest, fingerprint_of
from pipeline.source.config import SourceConfig

_FORMATS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "ndjson": "json"}
_COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """One file: ``name`` as it is spoken of, and ``path`` in its ``filesystem``; ``compression`` is pyarrow's and
    DuckDB's word, none for none."""

    name: str
    filesystem: Any
    path: str
    format: str
    compression: str | None

    @property
    def local(self) -> bool:
        return "file" in self.filesystem.protocol

    def known_to(self, connection: duckdb.DuckDBPyConnection) -> str:
        """What DuckDB calls it, as a literal of SQL: a name in which nothing is a pattern."""
        protocol = self.filesystem.protocol
        names = [protocol] if isinstance(protocol, str) else protocol
        if not self.local and not any(connection.filesystem_is_registered(name) for name in names):
            connection.register_filesystem(self.filesystem)
        return literal(
            "".join(f"[{sign}]" if sign in "*?[" else sign for sign in self.path) if self.local else self.name
        )

    @contextlib.contextmanager
    def bytes(self) -> Iterator[IO[Any]]:
        """What it holds, decompressed. Raises :class:`SourceError` if it cannot be read."""
        try:
            # fsspec's own local files ask themselves at each line whether they are open.
            with Path(self.path).open("rb") if self.local else self.filesystem.open(self.path, "rb") as raw:
                if self.compression is None:
                    yield raw
                else:
                    yield io.BufferedReader(pa.input_stream(raw, self.compression), 1 << 20)
        except (OSError, EOFError) as error:
            raise SourceError(f"list {self.name}: cannot be read: {error}") from error

    @contextlib.contextmanager
    def text(self, encoding: str = "utf-8", *, errors: str = "strict") -> Iterator[IO[str]]:
        """The same as text, line ends as they are, without a byte order mark."""
        with self.bytes() as stream:
            yield io.TextIOWrapper(stream, encoding=_without_mark(encoding), errors=errors, newline="")

    @contextlib.contextmanager
    def in_utf8(self, encoding: str, scratch: Path) -> "Iterator[Listed]":
        """The file itself, or a copy in UTF-8 for as long as the block lasts."""
        if codecs.lookup(encoding).name == "utf-8":
            yield self
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=scratch) as copy:
            try:
                with self.text(encoding) as stream:
                    shutil.copyfileobj(stream, copy, 1 << 20)
            except UnicodeError as error:
                raise SourceError(f"list {self.name}: is not text in {encoding}: {error}") from error
            copy.flush()
            yield dataclasses.replace(self, filesystem=fsspec.filesystem("file"), path=copy.name, compression=None)


def find_lists(patterns: Sequence[str], config: SourceConfig) -> list[Listed]:
    """Globs resolved, order kept, every list present. A file whose name looks like a glob is that file.

    Raises :class:`SourceError` for a missing list, a folder, and a name whose ending says no format.
    """
    found: list[Listed] = []
    for pattern in patterns:
        filesystem, path = _located(pattern)
        names = [path]
        if fsspec.core.has_magic(path) and not filesystem.isfile(path):
            names = sorted(name for name in filesystem.glob(path) if filesystem.isfile(name))
        elif not filesystem.isfile(path):
            names = []
        if not names:
            folder = filesystem.isdir(path)
            raise SourceError(
                f"list {pattern!r}: is a folder; name the files in it, such as {pattern.rstrip('/')}/*.parquet"
                if folder
                else f"list {pattern!r}: no such file"
            )
        found += [_listed(filesystem.unstrip_protocol(name), filesystem, name, config) for name in names]
    return found


def identity(listed: Listed, root: Path) -> str:
    """What a list is, without reading it: its path, size and time or tag of last change. A list under the root, whose
    path and time differ from copy to copy, by its content."""
    if listed.local and Path(listed.path).is_relative_to(root.resolve()):
        return fingerprint_of(Path(listed.path).relative_to(root.resolve()).as_posix(), file_digest(Path(listed.path)))
    info = listed.filesystem.info(listed.path)
    return fingerprint_of(
        listed.name, info.get("size"), str(info.get("mtime") or info.get("ETag") or info.get("LastModified"))
    )


def literal(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _located(pattern: str) -> tuple[Any, str]:
    # Before fsspec looks at it: in a URL `::` joins file systems, in the name of a file it is two colons.
    if Path(pattern).exists():
        return fsspec.filesystem("file"), str(Path(pattern).absolute())
    filesystem, path = fsspec.core.url_to_fs(pattern)
    return filesystem, path


def _listed(name: str, filesystem: Any, path: str, config: SourceConfig) -> Listed:
    endings = Path(path).name.lower().split(".")[1:]
    format_ = config.format
    if format_ == "auto":
        known = [_FORMATS[ending] for ending in endings if ending in _FORMATS]
        if not known:
            raise SourceError(
                f"list {name}: format not known from its name; expected one of {sorted(_FORMATS)}, or set source.format"
            )
        format_ = known[-1]  # type: ignore[assignment]
    compression = _COMPRESSIONS.get(endings[-1]) if endings and format_ != "parquet" else None
    return Listed(name=name, filesystem=filesystem, path=path, format=format_, compression=compression)


def _without_mark(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
