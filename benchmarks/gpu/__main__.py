"""``python -m benchmarks.gpu``: run the parts, each in its own process, and report what they found."""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

from benchmarks.gpu import child
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import Rows, write_report

_PROJECT = Path(__file__).resolve().parents[2]
_RESULTS = _PROJECT / "benchmarks" / "results" / "gpu"
# Of a part that was ended, for what it started itself to end too.
_GRACE_S = 3.0


def main() -> int:
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = Rows(arguments.output / "rows.jsonl")
    rows.start(command=" ".join(["python -m benchmarks.gpu", *sys.argv[1:]]))
    deadline = time.monotonic() + 60 * arguments.minutes
    for name, own_limit_s in arguments.only or [(name, None) for name in PARTS]:
        left = deadline - time.monotonic()
        if left < 1:
            rows.add({"part": name, "status": "out of time"})
            continue
        # On a CPU what is interpreted or merely small may take longer than a GPU does.
        _run(
            name,
            rows,
            limit_s=min(own_limit_s or PARTS[name].limit_s * (1 if arguments.device == "cuda" else 4), left),
            **_how(arguments),
        )
        write_report(rows, arguments.output)
    write_report(rows, arguments.output)
    print((arguments.output / "report.md").read_text())
    return 1 if rows.failures() else 0


def _how(arguments: argparse.Namespace) -> dict[str, object]:
    return {"device": arguments.device, "tiny": arguments.tiny}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    known = "; ".join(f"{name}: {part.what}" for name, part in PARTS.items())
    parser.add_argument(
        "--only",
        nargs="+",
        type=_part,
        metavar="NAME[=SECONDS]",
        help=f"parts, in this order, and how long each may take ({known})",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="sizes that show that everything works, and nothing else")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where torch finds it")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.device is None:
        import torch

        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("on a CPU there is only --tiny: the sizes are those of a GPU")
    return arguments


def _part(text: str) -> tuple[str, float | None]:
    name, given, seconds = text.partition("=")
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {name!r}; there are {', '.join(PARTS)}")
    return name, float(seconds) if given else None


def _run(name: str, rows: Rows, *, limit_s: float, device: object, tiny: object) -> None:
    """Run one part in a process group of its own, and end the group when it is over or out of time."""
    print(f"--- {name} ({limit_s:.0f} s at most)", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"benchmark-{name}-"))
    command = [name, str(rows.path), str(folder), str(device), str(limit_s), *["--tiny"] * bool(tiny)]
    process = (_Forked if device == "cpu" else _Started)(command)
    started = time.monotonic()
    try:
        code = process.wait(limit_s)
        if code is None:
            rows.add({"part": name, "status": "failed", "error": f"not done after {limit_s:.0f} s"})
        elif code not in (0, 1):
            # One that raised has said so itself.
            rows.add({"part": name, "status": "failed", "error": f"ended with status {code}"})
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)
    rows.add({"part": name, "status": "took", "seconds": round(time.monotonic() - started, 1)})


class _Started:
    """A part in a Python of its own: what one leaves on the GPU is nothing to the next."""

    def __init__(self, arguments: list[str]):
        command = [sys.executable, "-m", "benchmarks.gpu.child", *arguments]
        self._process = subprocess.Popen(
            command, env=_environment("cuda"), stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        """The exit status, or none after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None


class _Forked:
    """A part in a fork of a process that has the libraries, whose import would take most of a small part's time."""

    def __init__(self, arguments: list[str]):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.gpu.child", "deepspeed", "open_clip", "scipy.sparse", "torch"])
        before = dict(os.environ)
        os.environ.update(_environment("cpu"))
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
        self._process = context.Process(target=child.main_in_session, args=(arguments,))
        self._process.start()
        self.pid = self._process.pid or 0

    def wait(self, seconds: float) -> int | None:
        """The exit status, or none after so long."""
        self._process.join(seconds)
        return self._process.exitcode


def _environment(device: str) -> dict[str, str]:
    paths = [str(_PROJECT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if device == "cpu":
        # Kernels are interpreted, and nothing finds a GPU that may be there.
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def _end(process: "_Started | _Forked") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # One that was forked leads no group in its first moments.
            (os.killpg if os.getpgid(process.pid) == process.pid else os.kill)(process.pid, number)
        process.wait(_GRACE_S)


if __name__ == "__main__":
    sys.exit(main())
