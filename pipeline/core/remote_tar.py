"""Tars that lie elsewhere, read as those under the root are: only the asked samples, near ones in one request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.core.errors import ShardError, StorageError, brief
from pipeline.core.tars import TarReader, read_sample

IMAGE_EXTENSIONS: Final = ("jpg", "jpeg", "png", "webp")


def image_of(members: Mapping[str, bytes]) -> bytes:
    """The image of a sample; :class:`ShardError` if it has none."""
    return image_member(members)[1]


def image_member(members: Mapping[str, bytes]) -> tuple[str, bytes]:
    """The same with its extension in small letters, whatever their case is."""
    by_extension = {extension.lower(): content for extension, content in reversed(list(members.items()))}
    for extension in IMAGE_EXTENSIONS:
        if extension in by_extension:
            return extension, by_extension[extension]
    raise ShardError(f"a sample without an image: its members are {sorted(members)}, none of {list(IMAGE_EXTENSIONS)}")


def open_tar(root: Path, shard: str, tar: str | None) -> TarReader:
    """The tar of a shard of images: ``tar`` is the index's column of that name, none for the stage's own."""
    if tar is None:
        return TarReader(root / "images" / f"{shard}.tar")
    if "://" in tar:
        return RemoteTar(tar)
    # A path that is not absolute is one from the root.
    return TarReader(root / tar)


class RemoteTar(TarReader):
    """A tar at an fsspec URL; thread-safe, since every read names its position."""

    def __init__(self, url: str):
        import fsspec  # a tenth of a second, which readers of tars under the root do without

        self.url, self.path = url, Path(url)
        try:
            self._files, self._key = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{url}: {brief(error)}; for s3:// pip install 'clip-cid[s3]'") from error

    def __del__(self) -> None:
        """Nothing is held open."""

    def _read(self, offset: int, size: int) -> bytes:
        data = read_range(self._files, self._key, offset, size, where=self.url)
        if len(data) != size:
            raise ShardError(f"{self.url}: truncated, wanted {size} bytes at {offset}, got {len(data)}")
        return data

    def _split(self, data: bytes, offset: int, crc32: int | None) -> dict[str, bytes]:
        return read_sample(data, where=f"{self.url}, offset {offset}", crc32=crc32)


def read_range(filesystem: Any, path: str, offset: int, size: int, *, where: str) -> bytes:
    """Bytes of a file in one request, fewer at its end; what goes wrong is an error that names it as ``where``."""
    try:
        return bytes(filesystem.cat_file(path, start=offset, end=offset + size)) if size else b""
    except FileNotFoundError as error:
        raise ShardError(f"{where}: the tar is missing") from error
    except Exception as error:
        # Whatever the library of this protocol raises.
        raise StorageError(f"{where}: cannot be read: {brief(error)}") from error
