"""``python -m benchmarks.emoji``: corpus, teacher, student, and the tables of both; what is done is not done again.

``--only NAME`` does one of the steps; the ablation is done only when it is named.
"""

import argparse
import sys

from benchmarks.emoji.steps import STEPS, do
from pipeline.core.errors import PipelineError

_BY_DEFAULT = ("corpus", "teacher", "student")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description=__doc__)
    parser.add_argument("--only", choices=STEPS, help="one step; none means corpus, teacher and student")
    only = parser.parse_args().only
    try:
        for name in (only,) if only else _BY_DEFAULT:
            do(name)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
