"""A data set as a Dagster component, for a ``defs.yaml`` of one's own project."""

from typing import Any

import dagster as dg

from assets.data_set import clip_cid_assets


class ClipCid(dg.Component, dg.Model, dg.Resolvable):
    """All stages of one data set: see :func:`assets.data_set.clip_cid_assets`.

    ``name``: the prefix of its assets and jobs. ``settings``: as in a run config, ``root`` and what is not as in the
    demo. Relative paths begin where Dagster was started.
    """

    name: str
    settings: dict[str, Any]

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return clip_cid_assets(self.name, self.settings)
