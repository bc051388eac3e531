"""A root in an object store, reached through fsspec, with a local folder for what is being worked on.

The store is the truth: marks are always read there, and sizes are compared with what it holds. A file is written to it
whole, then its shard's mark; so a run that was killed has left complete objects that no mark speaks of, and nothing
worse. Local copies are remembered by their time of modification, which is made from the object's own time and tag: a
copy of an object that was replaced since is copied again. Tars are large and mostly read once: no copy of them stays.
"""

import contextlib
import datetime
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError, MissingInputError, StorageError
from pipeline.core.files import move_into_place
from pipeline.storage.config import StorageConfig
from pipeline.storage.local import LocalStorage
from pipeline.storage.lock import Lease

REMOTE_FILE = ".remote.json"
"""In a folder of local copies: the URL that they are copies of, and how it is reached."""

# Fewer files of one folder are asked for one by one; for more, the folder is listed.
_ASKED_SINGLY = 4
_LISTED_AT_ONCE = 2000
_NOT_KEPT = ".tar"
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs")


class ObjectStorage:
    """A store as a :class:`pipeline.storage.protocol.Storage`, its root at ``url``.

    ``root`` is the folder for local copies, ``options`` are fsspec's for the store.
    """

    remote = True

    def __init__(self, root: Path, url: str, options: Mapping[str, Any]):
        self.root, self._copies = Path(root), LocalStorage(root)
        self.url, self.options = url.rstrip("/"), dict(options)
        self._lease: Lease | None = None

    @classmethod
    def at(cls, url: str, config: StorageConfig) -> "ObjectStorage":
        """The storage at a URL, its local folder named after it."""
        url = url.rstrip("/")
        prefix = url.partition("://")[2]
        if set("*?[]#") & set(prefix) or "//" in prefix:
            # File systems take the first for patterns and the second for one slash.
            raise ConfigError(
                f"root {url!r}: a prefix with any of * ? [ ] # or // in it cannot be used; choose another"
            )
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.partition("://")[2]).strip("-")
        digest = hashlib.blake2b(url.encode(), digest_size=4).hexdigest()
        return cls(Path(config.scratch).resolve() / f"{readable}-{digest}", url, config.options)

    def attach(self) -> None:
        text = json.dumps({"url": self.url, "options": self.options})
        path = self.root / REMOTE_FILE
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace") == text:
                return
        _ = self._files
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        # Options may hold a key.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        move_into_place({path: temporary})

    def uri(self, name: str) -> str:
        return f"{self.url}/{name}"

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        keys = {self._key(name): name for name in names}
        if not keys:
            return {}
        with self._errors():
            found = self._files.cat(list(keys), on_error="return")
        texts = {}
        for key, content in found.items():
            if isinstance(content, bytes):
                texts[keys[key]] = content.decode(errors="replace")
            elif not isinstance(content, FileNotFoundError):
                with self._errors():
                    raise content
        return texts

    def write_text(self, name: str, text: str) -> None:
        with self._errors():
            self._files.pipe_file(self._key(name), text.encode())

    def names(self, folder: str, ending: str) -> list[str]:
        return sorted(f"{folder}/{name}" for name in self._list(folder) if name.endswith(ending))

    def folders(self, folder: str) -> list[str]:
        return sorted(name for name, info in self._entries(folder).items() if info["type"] == "directory")

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        return {name: int(info["size"]) for name, info in self._infos(names).items()}

    def remove(self, names: Iterable[str]) -> None:
        names = list(names)
        self._copies.remove(names)
        for name in names:
            with self._errors(), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._key(name))

    def publish(self, files: Mapping[str, Path]) -> None:
        self._put(files)
        infos = self._infos(files)
        for name, path in files.items():
            size = path.stat().st_size
            if name not in infos or int(infos[name]["size"]) != size:
                raise StorageError(f"{self.uri(name)}: not there as the {size} bytes that were sent; run again")
            if name.endswith(_NOT_KEPT):
                path.unlink()
                continue
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            os.utime(path, ns=(_stamp(infos[name]),) * 2)
            path.replace(self.root / name)

    def below(self, folder: str) -> list[str]:
        with self._errors():
            try:
                found = self._files.find(self._key(folder))
            except FileNotFoundError:
                return []
        return sorted(f"{folder}/{key.removeprefix(self._key(folder) + '/')}" for key in found)

    def upload(self, names: Iterable[str]) -> None:
        self._put({name: self.root / name for name in names})

    def part(self, name: str, start: int, size: int) -> bytes:
        with self._errors():
            return bytes(self._files.cat_file(self._key(name), start=start, end=start + size))

    def fetch(self, names: Iterable[str], *, only: bool = False) -> None:
        names = list(dict.fromkeys(names))
        infos = self._infos(names)
        missing = [name for name in names if name not in infos]
        if missing:
            raise MissingInputError(f"{self.uri(missing[0])} is missing ({len(missing)} such objects)")
        stale = [name for name in names if not self._is_copy(name, infos[name])]
        for start in range(0, len(stale), _LISTED_AT_ONCE):
            self._get({name: infos[name] for name in stale[start : start + _LISTED_AT_ONCE]})
        if only:
            for folder in {(self.root / name).parent for name in names}:
                for path in folder.iterdir():
                    if path.is_file() and str(path.relative_to(self.root)) not in infos:
                        path.unlink()

    @contextlib.contextmanager
    def borrowed(self, names: Iterable[str]) -> Iterator[None]:
        names = list(names)
        try:
            self.fetch(names)
            yield
        finally:
            self._copies.remove(names)

    @contextlib.contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        # Runs on one machine take turns by the file lock: it is let go at once when its holder dies.
        with self._copies.locked(stage):
            self._lease = Lease(self._files, self._key(f".marks/{stage}/lock"), what=f"{stage} at {self.url}")
            with self._errors():
                self._lease.acquire()
            try:
                yield
            finally:
                self._lease.release()

    def check_lock(self, stage: str) -> None:
        if self._lease is not None and self._lease.lost:
            raise StorageError(f"{stage}: another run has taken this stage at {self.url} over; this one gives up")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lease": None}

    @property
    def _files(self) -> Any:
        return _open(self.url, json.dumps(self.options, sort_keys=True), os.getpid())[0]

    def _key(self, name: str) -> str:
        return f"{_open(self.url, json.dumps(self.options, sort_keys=True), os.getpid())[1]}/{name}"

    def _list(self, folder: str) -> dict[str, dict[str, Any]]:
        """The files of a folder, by name."""
        return {name: info for name, info in self._entries(folder).items() if info["type"] == "file"}

    def _entries(self, folder: str) -> dict[str, dict[str, Any]]:
        """What a folder holds, by name."""
        with self._errors():
            try:
                found = self._files.ls(self._key(folder), detail=True, refresh=True)
            except FileNotFoundError:
                return {}
        return {info["name"].rstrip("/").rpartition("/")[2]: info for info in found}

    def _infos(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Size, time and tag of each object, without those that are not there."""
        folders: dict[str, list[str]] = defaultdict(list)
        for name in names:
            folders[name.rpartition("/")[0]].append(name)
        infos: dict[str, dict[str, Any]] = {}
        for folder, inside in folders.items():
            if len(inside) > _ASKED_SINGLY:
                listed = self._list(folder)
                files = {name: name.rpartition("/")[2] for name in inside}
                infos |= {name: listed[file] for name, file in files.items() if file in listed}
                continue
            for name in inside:
                with self._errors(), contextlib.suppress(FileNotFoundError):
                    infos[name] = self._files.info(self._key(name), refresh=True)
        return infos

    def _is_copy(self, name: str, info: Mapping[str, Any]) -> bool:
        try:
            state = (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return state.st_size == int(info["size"]) and state.st_mtime_ns == _stamp(info)

    def _get(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        temporary = self.root / ".tmp" / f"fetch-{uuid.uuid4().hex[:8]}"
        try:
            paths = {name: temporary / name for name in infos}
            for folder in {path.parent for path in paths.values()}:
                folder.mkdir(parents=True, exist_ok=True)
            with self._errors():
                self._files.get([self._key(name) for name in infos], [str(path) for path in paths.values()])
            for name, path in paths.items():
                if path.stat().st_size != int(infos[name]["size"]):
                    raise StorageError(
                        f"{self.uri(name)}: {path.stat().st_size} of {infos[name]['size']} bytes came; run again"
                    )
                os.utime(path, ns=(_stamp(infos[name]),) * 2)
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.root / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _put(self, files: Mapping[str, Path]) -> None:
        if files:
            with self._errors():
                self._files.put([str(path) for path in files.values()], [self._key(name) for name in files])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the store's library raises, as one error; a missing object and a full local disk stay what they are."""
        try:
            yield
        except FileNotFoundError as error:
            if "bucket does not exist" in str(error):
                raise StorageError(f"root {self.url}: {error}") from error
            raise
        except (PermissionError, ConnectionError, TimeoutError) as error:
            raise StorageError(f"root {self.url} cannot be reached: {error}") from error
        except Exception as error:
            # What s3fs makes of a store that refuses for ever; a local file would have a name.
            if isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EIO) and error.filename is None:
                raise StorageError(f"root {self.url}: the store refuses: {error.strerror}; run again later") from error
            if type(error).__module__.partition(".")[0] in _LIBRARIES:
                raise StorageError(f"root {self.url} cannot be reached: {error}") from error
            raise


@functools.lru_cache(maxsize=8)
def _open(url: str, options: str, process: int) -> tuple[Any, str]:
    """File system and prefix. By process: a connection does not survive a fork."""
    import fsspec  # a tenth of a second, which workers of a root that is a folder do without

    del process
    try:
        files, prefix = fsspec.core.url_to_fs(url, use_listings_cache=False, **json.loads(options))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"root {url!r}: {error}; for s3:// pip install 'clip-cid[s3]'") from error
    return files, str(prefix)


def _stamp(info: Mapping[str, Any]) -> int:
    """A time in nanoseconds whose seconds are the object's, and whose fraction says which version of it this is."""
    moment = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("created") or 0
    seconds = moment.timestamp() if isinstance(moment, datetime.datetime) else float(moment)
    version = repr((info.get("ETag") or info.get("etag"), info["size"], seconds))
    fraction = int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest()) % 10**9
    return int(seconds) * 10**9 + fraction
