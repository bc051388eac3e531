"""The tests that need a GPU: ``pytest -m gpu`` on what they and this command agree to be theirs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Setting

_PROJECT = Path(__file__).resolve().parents[2]
COMMAND = ("-m", "pytest", "-m", "gpu", "-q", "--no-header", "-p", "no:cacheprovider", "-rfE", "tests/gpu")
"""Arguments of Python. All tests of that folder need a GPU, and no others do."""


def measure(setting: Setting) -> Iterator[dict[str, Any]]:
    command = [sys.executable, *COMMAND, *(() if setting.cuda else ("--collect-only",))]
    done = subprocess.run(command, cwd=_PROJECT, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], done.stderr[-2000:], flush=True)
    if not setting.cuda:
        found = re.search(r"(\d+) tests? collected", done.stdout)
        # All of the folder, or it holds tests without the marker.
        agreed = found is not None and "deselected" not in done.stdout
        yield {"collected": int(found[1]) if found else 0, "needs": "CUDA", "ok": done.returncode == 0 and agreed}
        return
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            yield {"test": line[:300], "ok": False}
    yield {"summary": done.stdout.strip().splitlines()[-1][:200], "ok": done.returncode == 0}
