"""The end of a rank's process."""

import subprocess
import sys
import textwrap
from pathlib import Path


def test_what_was_registered_runs_and_threads_are_not_waited_for(tmp_path: Path) -> None:
    script = """
        import atexit, sys, threading, time
        from pathlib import Path
        from training.launch.leave import leave

        atexit.register(lambda: Path(sys.argv[1]).write_text("registered"))
        threading.Thread(target=time.sleep, args=(600,)).start()
        print("said", end="")
        leave(3)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "file")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "said", "")
    assert (tmp_path / "file").read_text() == "registered"
