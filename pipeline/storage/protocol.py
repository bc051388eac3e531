"""What stages ask of the place where a root lies, whether it is a folder or an object store.

Stages work on local paths; this is what they go through to reach and publish them. A root that is a folder is a
:class:`pipeline.storage.local.LocalStorage`; for a URL the folder is a place for local copies, and a
:class:`pipeline.storage.object_store.ObjectStorage` stands here.
"""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """A root. Names are relative to it, with slashes."""

    root: Path
    remote: bool

    def uri(self, name: str) -> str:
        """Where others find a file or folder, for display and for SQL."""
        ...

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """The content of small text files, without those that are not there."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Replace a small text file in one step."""
        ...

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files in a folder that end like this; an empty list for a folder that is not there."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, each relative to that one."""
        ...

    def below(self, folder: str) -> list[str]:
        """Names of all files in a folder and below it."""
        ...

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes of each file, without those that are not there."""
        ...

    def part(self, name: str, start: int, size: int) -> bytes:
        """Some bytes of a file."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there already are no error."""
        ...

    def publish(self, files: Mapping[str, Path]) -> None:
        """Move finished files from where they were written to their names; each appears whole."""
        ...

    def upload(self, names: Iterable[str]) -> None:
        """See to it that files that were written directly under the root are kept."""
        ...

    def fetch(self, names: Iterable[str], *, only: bool = False) -> None:
        """See to it that files are there to be read under the root; ``only`` them, in the folders that they lie in."""
        ...

    def borrowed(self, names: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """While the block lasts, files are there to be read; what had to be copied for it is removed afterwards."""
        ...

    def attach(self) -> None:
        """Make the root usable on this machine."""
        ...

    def locked(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of a stage; a run that finds it held waits."""
        ...

    def check_lock(self, stage: str) -> None:
        """Raise :class:`pipeline.core.errors.StorageError` if another run has taken the stage over."""
        ...
