"""The explorer's pages over HTTP, and in a browser."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from starlette.testclient import TestClient
from typer.testing import CliRunner

from assets.explore import site as site_module
from assets.explore.choice import write_choice
from assets.explore.images import as_jpeg
from assets.explore.server import application, listening
from assets.explore.site import Choice, Site
from assets.run_config import read_run_config
from clip_cid.app import app
from pipeline.core.errors import ConfigError, MissingInputError
from pipeline.storage.roots import open_root
from tests.assets.explored import HOSTILE, REACH, Explored, whole_root, write_balance
from tests.s3 import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return whole_root(tmp_path_factory.mktemp("explored") / "root")


@pytest.fixture(scope="module")
def site(explored: Explored, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    opened = Site(explored.root, "the <root>", Choice(path=tmp_path_factory.mktemp("choice") / "threshold.yaml"))
    yield opened
    opened.close()


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


def client_of(site: Site) -> TestClient:
    return TestClient(application(site), base_url="http://127.0.0.1:8686")


def got(client: TestClient, address: str, status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    return answer.text


def test_every_section_is_there_and_escaped(client: TestClient, explored: Explored) -> None:
    image = explored.ids[0]
    addresses = [
        *("/", "/at?t=0.3", "/pairs", "/clusters", "/cluster/2", "/download", "/leaks", "/student"),
        *(f"/image/{image}", "/search?q=picture", f"/group/{explored.ids[4]}?t=0.3", "/search?q=<script>"),
    ]
    for address in addresses:
        text = got(client, address)
        assert not re.search(
            r"<script(?! src=\"/static/explore.js\" defer>)|<img src=x|<b>set|<small>&|the <root>", text
        )
        assert not re.search(r"\b(style|on\w+)=", re.sub(r"&lt;.*?&gt;", "", text)), address
        assert "http" not in re.sub(r"http://www.w3.org/2000/svg|http-equiv", "", text)
    home = got(client, "/")
    for name in ("pairs", "clusters", "student", "leaks", "download"):
        assert f'href="/{name}"' in home
    assert "&lt;script&gt;alert(" in got(client, f"/image/{image}")
    assert "&lt;b&gt;set&lt;/b&gt;" in got(client, "/leaks")
    assert "too &lt;small&gt;" in got(client, f"/image/{explored.ids[-1]}")
    assert f'/image/{image}"' in got(client, f"/image/{explored.ids[1]}") and HOSTILE not in home


def test_figures_are_those_of_the_forest(client: TestClient, explored: Explored) -> None:
    for threshold in (0.0, 0.1, 0.25, REACH):
        text = got(client, f"/at?t={threshold}")
        removed = int((explored.edges.distance <= np.float32(threshold)).sum())
        assert f"<b>{removed}</b> images go" in text and f"<b>{60 - removed}</b> of 60 stay" in text
    text = got(client, "/?removal=0.5")
    assert "<b>30</b> images go" in text
    assert f'value="{float(np.sort(explored.edges.distance)[29])!r}' in text


def test_a_group_shows_the_one_that_stays_then_the_farthest(site: Site, explored: Explored) -> None:
    at = site.pages().views.at(0.3)
    assert at.largest and [group.size for group in at.largest] == sorted(
        (group.size for group in at.largest), reverse=True
    )
    reaches = [group.reach or 0 for group in at.widest]
    assert reaches == sorted(reaches, reverse=True)
    for group in at.largest:
        first, *others = group.pictures
        assert first.kept is True and all(picture.kept is False for picture in others)
        far = [explored.distance(first.image, picture.image) for picture in others]
        assert far == sorted(far, reverse=True)
        np.testing.assert_allclose([picture.distance for picture in others], far, atol=1e-6)
        # No other member is nearer to the mean of all.
        found = site.pages().views.group(group.image, 0.3)
        assert found is not None
        members = np.array(sorted(picture.image for picture in found[0].pictures))
        vectors = explored.vectors[np.searchsorted(explored.ids, members)].astype(np.float64)
        nearest = members[np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).argmin()]
        assert first.image == nearest
    for pair in (*at.under, *at.over):
        assert pair.distance == pytest.approx(explored.distance(pair.left.image, pair.right.image), abs=1e-6)


def test_nearest_images_are_the_nearest(site: Site, explored: Explored) -> None:
    image = int(explored.ids[7])
    vectors = site.pages().explorer.vectors
    assert vectors is not None
    exact = [(explored.distance(image, int(other)), int(other)) for other in explored.ids if other != image]
    assert [other for other, _ in vectors.nearest(image, 9)] == [other for _, other in sorted(exact)[:9]]
    assert vectors.nearest(12345, 3) == []


def test_search_takes_all_words_in_any_case(client: TestClient) -> None:
    text = got(client, "/search?q=THING+3,+picture")
    assert len(re.findall("<figure", text)) == sum(number % 7 == 3 for number in range(2, 60))
    assert "None has all these words" in got(client, "/search?q=nothing+like+it")
    assert "Search captions" in got(client, "/search")
    assert got(client, "/search?q=" + "%25_'\"%00" * 60)


def test_long_captions_are_cut(client: TestClient, explored: Explored) -> None:
    text = got(client, f"/image/{explored.ids[1]}")
    assert "(10,000 characters)" in text and text.count("word") < 450
    assert len(got(client, "/search?q=word")) < 8000


def test_images_are_encoded_again_and_others_have_a_placeholder(client: TestClient, explored: Explored) -> None:
    answer = client.get(f"/thumb/{explored.ids[0]}")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    stored = b"jpg"
    assert stored not in answer.content
    for image in (explored.ids[2], 99):
        answer = client.get(f"/picture/{image}")
        assert answer.headers["content-type"] == "image/svg+xml" and "no image" in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_images_that_no_view_should_decode() -> None:
    import io

    from PIL import Image

    def encoded(size: tuple[int, int], kind: str, mode: str = "RGB") -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind)
        return buffer.getvalue()

    assert as_jpeg(encoded((9000, 8000), "PNG", "1"), 160) is None
    assert as_jpeg(encoded((30, 20), "BMP"), 160) is None
    whole = encoded((30, 20), "PNG", "RGBA")
    assert as_jpeg(whole[: len(whole) // 2], 160) is None
    for mode, kind in (("RGBA", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP")):
        data = as_jpeg(encoded((300, 20), kind, mode), 160)
        assert data is not None
        with Image.open(io.BytesIO(data)) as small:
            assert (small.format, small.mode, small.width) == ("JPEG", "RGB", 160)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        *[
            (f"/{kind}/{bad}", 404)
            for kind in ("image", "thumb", "group", "cluster")
            for bad in ("x", "1e3", "../../etc")
        ],
        *[(f"/image/{bad}", 404) for bad in ("9" * 19, "9" * 40, "--1", "%C2%B2", "1%2F..%2F2", "0")],
        *[("/cluster/77777777777", 404), ("/cluster/77", 404), ("/clusters?page=-1", 404), ("/clusters?page=9x", 404)],
        *[(f"/at?t={bad}", 400) for bad in ("x", "nan", "inf", "-0.1", "0.61")],
        *[("/?removal=x", 400), ("/static/..%2Fserver.py", 404), ("/static/x.css", 404), ("/nothing", 404)],
        ("/group/5?t=0.3", 404),
    ],
)
def test_what_is_no_address(client: TestClient, address: str, status: int) -> None:
    text = got(client, address, status)
    assert "Traceback" not in text and "<h1>Not here</h1>" in text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8686", "[::1]", "0.0.0.0:8686", ""])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400 and "threshold" not in answer.text
    assert client.get("/", headers={"host": "localhost:8686"}).status_code == 200


def test_every_answer_has_the_policy(client: TestClient) -> None:
    for address in ("/", "/at?t=0.2", "/thumb/1", "/static/explore.css", "/nothing", "/image/x"):
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_a_threshold_is_written_once(client: TestClient, site: Site) -> None:
    path = site.choice.path
    values = {"t": "0.125", "token": site.token}
    assert client.post("/use", data=values | {"token": "other"}).status_code == 403
    assert client.post("/use", data=values | {"t": "7"}).status_code == 400
    assert client.post("/use", json=values).status_code == 415
    assert client.post("/use", data=values | {"x": "y" * 5000}).status_code == 413
    assert client.get("/use").status_code == 405 and not path.exists()
    answer = client.post("/use", data=values)
    assert answer.status_code == 200 and f"{path}: written" in answer.text
    config = yaml.safe_load(path.read_text())["resources"]["settings"]["config"]
    assert config == {"root": "the <root>", "balance": {"threshold": 0.125, "target_removal": None}}
    assert read_run_config(path).balance.threshold == 0.125
    again = client.post("/use", data=values | {"t": "0.25"})
    assert again.status_code == 409 and "exists and was left as it is" in again.text and "0.125" in path.read_text()
    assert "replace the file that is there" in got(client, "/")
    answer = client.post("/use", data=values | {"t": "0.25", "replace": "1"})
    assert f"{path}: replaced" in answer.text and read_run_config(path).balance.threshold == 0.25
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_threshold_goes_into_a_copy_of_a_config(tmp_path: Path) -> None:
    base = tmp_path / "mine.yaml"
    base.write_text("resources: {settings: {config: {root: data/x, balance: {target_removal: 0.3}}}}")
    write_choice(tmp_path / "new.yaml", "data/x", 0.2, base=base)
    settings = read_run_config(tmp_path / "new.yaml")
    assert (settings.root, settings.balance.threshold, settings.balance.target_removal) == ("data/x", 0.2, None)
    with pytest.raises(ConfigError, match="must lie in"):
        write_choice(tmp_path / "other.yaml", "data/x", 0.0)
    with pytest.raises(ConfigError, match="max_distance"):
        write_choice(tmp_path / "other.yaml", "data/x", 1.5, base=base)


def test_a_root_that_grows(explored: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_module, "_LOOKED_AFTER_S", {False: -1.0, True: -1.0})
    root = tmp_path / "root"
    with pytest.raises(MissingInputError, match="no table of a root is there yet"):
        Site(root, "r", Choice(path=tmp_path / "t.yaml"))

    def take(stage: str, *tables: str) -> None:
        for name in (*tables, f".marks/{stage}"):
            shutil.copytree(explored.root / name, root / name)

    take("images", "images")
    (root / ".marks/images/complete.json").unlink()
    site = Site(root, "r", Choice(path=tmp_path / "t.yaml"))
    client = client_of(site)
    home = got(client, "/")
    assert "no near-duplicate forest yet" in home and "its 1 finished shards" in home
    assert 'href="/download"' in home and 'href="/clusters"' not in home and "success" in got(client, "/download")
    for address in ("/pairs", "/clusters", "/student", "/leaks", "/search?q=x", "/at?t=0.1", "/cluster/1", "/group/1"):
        assert "is not there yet" in got(client, address, 404)
    assert got(client, f"/image/{explored.ids[3]}")
    take("near_duplicates", "near_duplicates")
    home = got(client, "/?t=0.3")
    assert "Largest groups" in home and "stays</b>" not in home
    assert "it is not known which one stays" in got(client, f"/group/{explored.ids[4]}?t=0.3")
    take("teacher_embeddings", "teacher_embeddings", "caption_embeddings")
    assert "stays</b>" in got(client, "/?t=0.3")
    # A run takes the mark away, then the file.
    (root / ".marks/near_duplicates/complete.json").rename(root / "kept.json")
    (root / "near_duplicates/near_duplicates.parquet").unlink()
    assert "no near-duplicate forest yet" in got(client, "/")
    write_balance(root, explored.ids, 0.2)
    assert "goes, 0.125 from" in got(client, f"/image/{explored.ids[1]}")
    (root / "balance_groups/balance_groups.parquet").write_bytes(b"")
    got(client, f"/image/{explored.ids[1]}", 503)
    assert "run the stage again" in got(client, "/") and got(client, f"/image/{explored.ids[1]}")
    site.close()


def test_a_root_that_may_only_be_read(explored: Explored, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(explored.root, root)
    before = sorted(path for path in root.rglob("*"))
    for path in [root, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    site = Site(root, "r", Choice(path=tmp_path / "t.yaml"))
    assert "Largest groups" in got(client_of(site), "/?t=0.3")
    site.close()
    assert sorted(path for path in root.rglob("*")) == before
    for path in [root, *before]:
        path.chmod(0o755)


def test_a_root_in_a_store(explored: Explored, s3: Store, tmp_path: Path) -> None:
    for path in explored.root.rglob("*"):
        if path.is_file() and ".tmp" not in path.parts:
            s3.write(path.relative_to(explored.root).as_posix(), path.read_bytes())
    folder = open_root(s3.url, s3.machine("a"))
    site = Site(folder, s3.url, Choice(path=tmp_path / "t.yaml"))
    client = client_of(site)
    assert "Largest groups" in got(client, "/?t=0.3") and s3.url in got(client, "/pairs")
    assert client.get(f"/thumb/{explored.ids[0]}").headers["content-type"] == "image/jpeg"
    # Of a tar only the part that is shown was fetched.
    assert not list(folder.rglob("*.tar"))
    site.close()


def test_a_port_in_use_is_one_line(explored: Explored) -> None:
    with listening(0) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["explore", str(explored.root), "--port", str(port)])
    assert result.exit_code == 2
    assert result.stderr == f"clip-cid: port {port} of 127.0.0.1 is in use; --port takes another\n"


class Browser:
    """A page in headless chromium, asked over its debugging protocol."""

    def __init__(self, profile: Path, address: str):
        from websockets.sync.client import connect

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        command: list[Any] = [CHROMIUM, *options, f"--user-data-dir={profile}", address]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = profile / "DevToolsActivePort"
        wait_until(lambda: port.exists() and len(port.read_text().splitlines()) > 1)
        listed = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"
        with urllib.request.urlopen(listed) as answer:
            (page,) = [found for found in json.load(answer) if found["type"] == "page"]
        self._socket, self._asked = connect(page["webSocketDebuggerUrl"]), 0

    def call(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(timeout=30))).get("id") != self._asked:
            pass
        # While a page takes the place of another there is nothing to ask.
        return answer.get("result", {})

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True).get("result", {}).get("value")

    def press(self, key: str) -> None:
        self.run(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))")

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_keys_in_a_browser(site: Site, explored: Explored, tmp_path: Path) -> None:
    import uvicorn

    with listening(0) as listener:
        running = uvicorn.Server(uvicorn.Config(application(site), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        browser = Browser(tmp_path / "profile", f"http://127.0.0.1:{listener.getsockname()[1]}/?t=0.3")
        try:
            # The policy has let the style sheet and the script in.
            wait_until(lambda: browser.run("slider.className") == "js")
            assert browser.run("getComputedStyle(document.querySelector('.sheet')).display") == "grid"
            screen = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.call("Emulation.setDeviceMetricsOverride", **screen)
            assert browser.run("innerWidth") == 400 >= browser.run("document.documentElement.scrollWidth")
            shown = "document.querySelector('.figures').dataset.threshold"
            for key, threshold in (("ArrowRight", 0.3006), ("ArrowLeft", 0.3)):
                browser.press(key)
                wait_until(lambda wanted=threshold: float(browser.run(shown)) == pytest.approx(wanted))
                removed = int((explored.edges.distance <= np.float32(threshold)).sum())
                assert f"{removed} images go" in browser.run("document.querySelector('.figures').textContent")
                wait_until(lambda wanted=threshold: float(browser.run("location.search.slice(3)")) == wanted)
            groups = "[...document.querySelectorAll('.group')].indexOf(document.activeElement)"
            for key, number in (("j", 0), ("j", 1), ("k", 0)):
                browser.press(key)
                assert browser.run(groups) == number
            browser.press("/")
            assert browser.run("document.activeElement.name") == "q"
        finally:
            browser.close()
            running.should_exit = True
            thread.join()
