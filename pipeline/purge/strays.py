"""What no mark speaks of and may hold what goes: remains of runs, pictures, and work that is made again."""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.storage.completion import REMEMBERED, REPORT
from pipeline.storage.protocol import Storage

_FOLDERS = (".tmp", ".near_duplicates", "pictures", REMEMBERED)
_ENDINGS = (".tar", ".parquet")


def strays(storage: Storage, marked: Iterable[str]) -> list[str]:
    """Their names: temporary files, the search for near-duplicates under way, pictures and what is remembered of them,
    the report, captions beside runs, and in the folders of tables whatever a run that was killed has left."""
    marked = set(marked)
    folders = {str(PurePosixPath(name).parent) for name in marked if name.endswith(_ENDINGS)}
    found = [name for folder in _FOLDERS for name in storage.below(folder)]
    found += storage.sizes([REPORT])
    found += [name for name in storage.below("runs") if "index" in PurePosixPath(name).parts[:-1]]
    found += [
        name
        for folder in sorted(folders)
        for ending in _ENDINGS
        for name in storage.names(folder, ending)
        if name not in marked
    ]
    return sorted(set(found))


def count_by_folder(names: Iterable[str]) -> dict[str, int]:
    """How many files there are in each of the root's folders; names of temporary files say nothing more."""
    return dict(Counter(PurePosixPath(name).parts[0] for name in names))


def remove_copies(root: Path) -> None:
    """Remove what a folder of local copies holds beside marks and locks: the store has what is left."""
    (root / REPORT).unlink(missing_ok=True)
    for path in root.iterdir():
        if path.is_dir() and path.name != ".marks":
            shutil.rmtree(path)
