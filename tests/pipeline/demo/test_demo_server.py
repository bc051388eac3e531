"""The loopback server, asked by a plain HTTP client."""

import http.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.demo.server import serve

JPEG, HTML = b"\xff\xd8 cut short", b"<!DOCTYPE html><p>Gone</p>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "picture.jpg").write_bytes(JPEG)
    (tmp_path / "images" / "page.jpg").write_bytes(HTML)
    (tmp_path / "truth.parquet").write_bytes(b"secret")
    return tmp_path


def get(address: str, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.getheader("Content-Type"), response.read()


def test_files_come_as_they_are_with_their_own_type(folder: Path) -> None:
    with serve(folder) as address:
        assert get(address, "/images/picture.jpg") == (200, "image/jpeg", JPEG)
        assert get(address, "/images/picture.jpg?size=2", "HEAD") == (200, "image/jpeg", b"")
        assert get(address, "/images/page.jpg") == (200, "text/html; charset=utf-8", HTML)


@pytest.mark.parametrize(
    "path", ["/images/absent.jpg", "/", "/images/", "/truth.parquet", "/images/../truth.parquet", "/images/.."]
)
def test_nothing_but_images_is_served(folder: Path, path: str) -> None:
    with serve(folder) as address:
        assert get(address, path)[0] == 404


def test_many_connections_at_once_and_none_afterwards(folder: Path) -> None:
    with serve(folder) as address, ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda _: get(address, "/images/picture.jpg")[0], range(200)))
    assert statuses == [200] * 200
    assert address.startswith("127.0.0.1:")
    with pytest.raises(ConnectionRefusedError):
        get(address, "/images/picture.jpg")
