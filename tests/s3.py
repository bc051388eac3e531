"""A real S3-compatible server on loopback, and roots in it as several machines see them."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from pipeline.storage.config import StorageConfig

BUCKET = "my-bucket"


class Store:
    """A bucket. ``url`` is a root that nobody has used yet; each call of ``machine`` is a machine of its own."""

    def __init__(self, endpoint: str, folder: Path):
        self.endpoint, self._folder = endpoint, folder
        # In the options, not in the environment, so that workers elsewhere have them too.
        self.options = {"endpoint_url": endpoint, "key": "key", "secret": "secret"}
        self.files: Any = fsspec.filesystem("s3", **self.options, use_listings_cache=False)
        self.prefix = f"{BUCKET}/{uuid.uuid4().hex[:8]}/root"
        self.url = f"s3://{self.prefix}"

    def machine(self, name: str) -> StorageConfig:
        return StorageConfig(options=self.options, scratch=str(self._folder / name))

    def objects(self, folder: str = "") -> set[str]:
        """Names of all objects below a folder of the root."""
        key = f"{self.prefix}/{folder}".rstrip("/")
        return {name.removeprefix(f"{self.prefix}/") for name in self.files.find(key)}

    def read(self, name: str) -> bytes:
        return bytes(self.files.cat_file(f"{self.prefix}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"{self.prefix}/{name}", data)

    def delete(self, name: str) -> None:
        self.files.rm_file(f"{self.prefix}/{name}")


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """The server's address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        fsspec.filesystem("s3", endpoint_url=endpoint, key="key", secret="secret").mkdir(BUCKET)
        yield endpoint
    finally:
        server.stop()
