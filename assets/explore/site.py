"""A root as a server shows it: opened, and opened anew when it has changed."""

import contextlib
import dataclasses
import math
import secrets
import threading
import time
from pathlib import Path

import duckdb

from assets.explore.explorer import Explorer
from assets.explore.links import LiveLinks
from assets.explore.pages import Pages
from assets.explore.tables import signature
from pipeline.core.errors import PipelineError
from pipeline.core.query import QueryConfig
from pipeline.storage.roots import storage_of

_LOOKED_AFTER_S = {False: 5.0, True: 60.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Where "use this threshold" writes, and the config that it starts from."""

    path: Path
    base: Path | None = None


class Site:
    """The pages of a root, opened anew when the root has changed. Close it at the end."""

    def __init__(self, folder: Path, root: str, choice: Choice, query_config: QueryConfig | None = None):
        """``folder``: the local one of the root, which is called ``root``."""
        self._folder, self._root, self._query = folder, root, query_config
        self.choice, self.token = choice, secrets.token_urlsafe(16)
        self._lock, self._looked = threading.Lock(), time.monotonic()
        self._old: list[Explorer] = []
        self._in_doubt = False
        self._pages = self._opened()

    @property
    def root(self) -> str:
        return self._root

    def pages(self) -> Pages:
        """Those of the root as it is, looked at every few seconds, in a store every minute; as it was where it cannot
        be opened now."""
        with self._lock:
            if time.monotonic() - self._looked > _LOOKED_AFTER_S[storage_of(self._folder).remote]:
                self._look()
            return self._pages

    def doubt(self) -> None:
        """Something could not be read: look at the root before anything else is shown."""
        self._in_doubt, self._looked = True, -math.inf

    def close(self) -> None:
        for explorer in [*self._old, self._pages.explorer]:
            explorer.close()

    def _look(self) -> None:
        # A run that has just removed what it will write anew is no reason to show nothing.
        with contextlib.suppress(PipelineError, OSError, duckdb.Error):
            if self._in_doubt or signature(self._folder) != self._pages.explorer.signature:
                before, self._pages = self._pages.explorer, self._opened()
                # Requests under way may still read the one before.
                for explorer in self._old:
                    explorer.close()
                self._old, self._in_doubt = [before], False
        self._looked = time.monotonic()

    def _opened(self) -> Pages:
        return Pages(Explorer(self._folder, self._query), LiveLinks(), self._root)
