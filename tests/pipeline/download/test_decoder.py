import dataclasses
import hashlib
import io
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from pipeline.download.decoder import Decoder, IsolatedDecoder
from pipeline.download.resize import Resized, Resizer
from tests.pipeline.download.pictures import Stumbling
from tests.pipeline.download.test_resize import picture, resizer


@pytest.fixture(scope="module")
def isolated() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(Stumbling(**dataclasses.asdict(resizer())), timeout_s=5) as decoder:
        yield decoder


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"kill", "decoding killed its process: SIGKILL"),
        (b"crash", "decoding killed its process: SIGSEGV"),
        (b"exit", "decoding killed its process: exit status 3"),
        (b"hang", "decoding did not end in time: 5 s"),
    ],
)
def test_a_sample_that_breaks_its_decoder_fails_alone(isolated: IsolatedDecoder, body: bytes, error: str) -> None:
    assert isolated(picture(80, 60), 1) == resizer()(picture(80, 60))
    assert isolated(io.BytesIO(body), 2) == (None, None, None, None, None, f"[failed_in_worker] {error}")
    assert isolated(picture(80, 60), 3) == resizer()(picture(80, 60))


def test_a_process_that_does_not_start_is_no_sample_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="could not be started again"), IsolatedDecoder(
        Stumbling(**dataclasses.asdict(resizer())), timeout_s=5
    ) as decoder:  # fmt: skip
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(OSError, match="did not start: exit status 1"):
            decoder(io.BytesIO(b"kill"), 1)
        assert decoder(picture(80, 60), 2)[5] == "[failed_in_worker] there is no process to decode in"


def test_the_process_ends_with_its_decoder() -> None:
    before = psutil.Process().children()
    with IsolatedDecoder(resizer(), timeout_s=5) as decoder:
        assert decoder(picture(80, 60), 1)[0] is not None
        [child] = set(psutil.Process().children()) - set(before)
        assert not decoder(io.BytesIO(b""), 2)[0]
        assert child.is_running()
    assert not child.is_running()


def test_the_sample_is_known_while_it_is_decoded() -> None:
    seen = []

    class Asking(Resizer):
        def __call__(self, stream: io.BytesIO) -> Resized:
            seen.append(decoder.current)
            return super().__call__(stream)

    decoder = Decoder(Asking(**dataclasses.asdict(resizer())))
    decoder(picture(80, 60), 7)
    [(image_id, since)] = seen
    assert (image_id, decoder.current) == (7, None)
    assert 0 <= time.monotonic() - since < 60


def test_the_md5_of_what_was_decoded_waits_to_be_taken(isolated: IsolatedDecoder) -> None:
    for decoder in (isolated, Decoder(resizer())):
        served = picture(80, 60).getvalue()
        decoder.md5.clear()
        assert decoder(io.BytesIO(served), 7)[0] and not decoder(io.BytesIO(b"no picture"), 8)[0]
        assert decoder.md5 == {7: hashlib.md5(served).hexdigest()}
