"""Drawing by resvg, which nothing else of the project needs: uv runs it in an environment of its own."""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError

REQUIREMENT = "resvg-py==0.5.0"


def draw(drawings: Sequence[str], size: int) -> list[bytes]:
    """A PNG of ``size`` x ``size`` pixels with transparency for each SVG, which is square.

    Raises :class:`PipelineError` with the last line of what went wrong.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "run", "--quiet", "--no-project", "--python", sys.executable, "--with", REQUIREMENT, "python"]
    peer = str(Path(__file__).with_name("resvg_peer.py"))
    lines = "".join(json.dumps(svg) + "\n" for svg in drawings)
    done = subprocess.run([*command, peer, str(size)], check=False, input=lines, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise PipelineError(f"drawing with {REQUIREMENT}: {reason}")
    return [base64.b64decode(line) for line in done.stdout.splitlines()]
