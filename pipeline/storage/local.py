"""Where the files of a root lie. Stages work on local paths; this is what they go through to reach and publish them.

A root is a folder, and :class:`LocalStorage` does what a file system does. If it is a URL, the folder is a place for
local copies and :class:`pipeline.storage.object_store.RemoteStorage` stands here instead. Names are relative to the
root, with slashes.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.core.files import write_text_atomically

log = logging.getLogger(__name__)

REMOTE_FILE = ".remote.json"
"""In a folder of local copies: the URL that they are copies of, and how it is reached."""


class LocalStorage:
    """A root that is a folder."""

    remote = False

    def __init__(self, root: Path):
        self.root = Path(root)

    def uri(self, name: str) -> str:
        """Where others find a file or folder, for display and for SQL."""
        return str((self.root / name).resolve())

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """The content of small text files, without those that are not there."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = (self.root / name).read_text()
        return found

    def write_text(self, name: str, text: str) -> None:
        """Replace a small text file in one step."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files in a folder that end like this; an empty list for a folder that is not there."""
        return sorted(f"{folder}/{path.name}" for path in (self.root / folder).glob(f"*{ending}"))

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of each file, without those that are not there."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = (self.root / name).stat().st_size
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there already are no error."""
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def publish(self, files: Mapping[str, Path]) -> None:
        """Move finished files from where they were written to their names; each appears whole."""
        for name, path in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(self.root / name)

    def below(self, folder: str) -> list[str]:
        """Names of all files in a folder and below it."""
        return sorted(
            path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*") if path.is_file()
        )

    def upload(self, names: Iterable[str]) -> None:
        """See to it that files that were written directly under the root are kept."""

    def part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a file."""
        with (self.root / name).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def fetch(self, names: Iterable[str], *, only: bool = False) -> None:
        """See to it that files are there to be read under the root; ``only`` them, in the folders that they lie in."""

    @contextlib.contextmanager
    def borrowed(self, names: Iterable[str]) -> Iterator[None]:
        """While the block lasts, files are there to be read; what had to be copied for it is removed afterwards."""
        del names
        yield

    def attach(self) -> None:
        """Make the root usable on this machine."""

    @contextlib.contextmanager
    def locked(self, stage: str) -> Iterator[None]:
        """Hold the lock of a stage; a run that finds it held waits."""
        folder = self.root / ".marks" / stage
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                if lock.read() == str(os.getppid()):
                    # A spawned worker imports the main script again; without a guard it would wait for its own parent.
                    raise RuntimeError("put the script's calls under: if __name__ == '__main__':") from None
                log.info("%s: another run is at work on this stage, waiting for it", stage)
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def check_lock(self, stage: str) -> None:
        """Raise :class:`pipeline.core.errors.StorageError` if another run has taken the stage over."""
