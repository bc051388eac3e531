"""How long OpenMP's threads spin before they sleep. To be said before torch, faiss or scikit-learn are imported."""

import os
from collections.abc import MutableMapping

# GNU's runtime counts turns of a loop, of which it reckons 100,000 to a millisecond, newer processors fewer; it takes
# 300,000 by default. LLVM's and Intel's count milliseconds, 200 by default. torch's and faiss's wheels for Linux bring
# GNU's. Each runtime reads its own variable, once, when it is loaded.
_SPIN = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for others sleep after about a millisecond, in processes with this environment.

    By default they spin for many times as long, and on a machine that has other work they take the cores from the very
    threads that they wait for. What the user has set stays, be it one of these variables or the standard's
    ``OMP_WAIT_POLICY``, which says the same for every runtime.
    """
    if "OMP_WAIT_POLICY" not in environment:
        for name, value in _SPIN.items():
            environment.setdefault(name, value)
