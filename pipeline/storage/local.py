"""A root that is a folder: files are where they are wanted, and appear by being renamed."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.core.files import move_into_place, write_text_atomically

log = logging.getLogger(__name__)


class LocalStorage:
    """A folder as a :class:`pipeline.storage.protocol.Storage`."""

    remote = False

    def __init__(self, root: Path):
        self.root = Path(root)

    def uri(self, name: str) -> str:
        return str((self.root / name).resolve())

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = (self.root / name).read_text(errors="replace")
        return found

    def write_text(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)

    def names(self, folder: str, ending: str) -> list[str]:
        return sorted(f"{folder}/{path.name}" for path in (self.root / folder).glob(f"*{ending}"))

    def folders(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.root / folder).glob("*") if path.is_dir())

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found[name] = (self.root / name).stat().st_size
        return found

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.root / name).unlink(missing_ok=True)

    def publish(self, files: Mapping[str, Path]) -> None:
        move_into_place({self.root / name: path for name, path in files.items()})

    def below(self, folder: str) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in (self.root / folder).rglob("*") if path.is_file()
        )

    def upload(self, names: Iterable[str]) -> None:
        """They are kept where they were written."""

    def part(self, name: str, start: int, size: int) -> bytes:
        with (self.root / name).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def fetch(self, names: Iterable[str], *, only: bool = False) -> None:
        """They are there."""

    @contextlib.contextmanager
    def borrowed(self, names: Iterable[str]) -> Iterator[None]:
        del names
        yield

    def attach(self) -> None:
        """Every process that sees the folder can use it."""

    @contextlib.contextmanager
    def locked(self, stage: str) -> Iterator[None]:
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
        """A file lock is nobody else's until its holder ends."""
