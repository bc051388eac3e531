"""Pictures that are cheap to send and dear to decode, or worse."""

import dataclasses
import io
import os
import re
import signal
import time

from PIL import Image

from pipeline.download.resize import Resized, Resizer


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG of ``scans`` scans (at least ten), most of which say nothing, each over the whole picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    starts, end = [found.start() for found in re.finditer(b"\xff\xda", whole)], whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[starts[-1] : end] * (scans - len(starts)) + whole[end:]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stumbling(Resizer):
    """A resizer over which bodies have power."""

    def __call__(self, stream: io.BytesIO) -> Resized:
        match stream.getvalue():
            case b"kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case b"exit":
                os._exit(3)
            case b"hang":
                time.sleep(600)
        return super().__call__(stream)
