"""One part in its process: rows go to the file as they come."""

import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from benchmarks.gpu.parts import PARTS, NeedsCuda, Setting
from benchmarks.gpu.report import Rows


def main_in_session(arguments: list[str]) -> None:
    """The same in a process that was forked: it leads a session of its own, so that all it starts can be ended."""
    os.setsid()
    sys.exit(main(arguments))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("limit_s", type=float)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    rows = Rows(given.rows)
    started = time.monotonic()
    setting = Setting(device=given.device, tiny=given.tiny, folder=given.folder, ends=started + given.limit_s)
    try:
        for row in importlib.import_module(f"benchmarks.gpu.{PARTS[given.name].module}").measure(setting):
            at = round(time.monotonic() - started, 1)
            rows.add(
                {"part": given.name, "status": "failed" if row.get("ok") is False else "measured", **row, "at_s": at}
            )
    except NeedsCuda as needed:
        rows.add({"part": given.name, "status": "needs CUDA", "what": str(needed)})
    except Exception as error:  # noqa: BLE001 - whatever it was, it costs this part alone and is reported
        # The report has the reason, the log the whole.
        traceback.print_exc()
        rows.add({"part": given.name, "status": "failed", "error": f"{type(error).__name__}: {str(error)[:2000]}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
