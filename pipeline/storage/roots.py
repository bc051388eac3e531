"""A root by its name: a folder, or the local folder of one in an object store."""

import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.storage.config import StorageConfig
from pipeline.storage.local import LocalStorage
from pipeline.storage.object_store import REMOTE_FILE, ObjectStorage
from pipeline.storage.protocol import Storage


def storage_of(root: Path) -> Storage:
    """The storage of an open root, in any process that sees its folder."""
    try:
        text = (Path(root) / REMOTE_FILE).read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return LocalStorage(root)
    try:
        content: dict[str, Any] = json.loads(text)
        return ObjectStorage(Path(root), **content)
    except (ValueError, TypeError) as error:
        # Not taken for a root of its own: what is in the store would be made again.
        raise StorageError(
            f"{Path(root) / REMOTE_FILE}: damaged, it should say of which URL this folder has copies; remove the "
            "folder, or open the root by its URL again"
        ) from error


def open_root(root: str, config: StorageConfig | None = None) -> Path:
    """The local folder of a root: itself, or for a URL a folder for local copies, under ``config.scratch``.

    Raises :class:`ConfigError` if fsspec does not know the URL's protocol or its package is not installed.
    """
    if "://" not in root:
        return Path(root)
    config = config or StorageConfig()
    storage = ObjectStorage.at(root, config)
    storage.attach()
    return storage.root
