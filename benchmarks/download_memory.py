"""Peak memory of the stage ``images`` for few pairs and for many, on addresses that are refused at once."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.download import make_source


def measure() -> list[dict[str, Any]]:
    """Peak memory in MiB by number of pairs."""
    with tempfile.TemporaryDirectory() as folder:
        return [_memory(Path(folder) / str(pairs), pairs) for pairs in (20_000, 80_000, 200_000)]


def _memory(root: Path, pairs: int) -> dict[str, Any]:
    """Peak memory of the stage's process and of the largest below it, on addresses that are refused at once."""
    make_source(root, [f"http://10.0.0.1/{number}.jpg" for number in range(pairs)])
    # VmHWM, not ru_maxrss of the process itself: that one counts what its parent had when it was started.
    script = (
        "import re, resource, sys; from pathlib import Path\n"
        "from pipeline.download import ImagesConfig, download_images\n"
        "download_images(Path(sys.argv[1]), ImagesConfig(processes=2, bad_shards=0))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1],"
        " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True)
    own, child = (int(figure) >> 10 for figure in done.stdout.split())
    return {"pairs": pairs, "stage_mib": own, "largest_process_below_mib": child}
