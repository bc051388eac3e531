"""The whole report: which sections there are, and where it lies."""

import dataclasses
import datetime
import html
import time
from collections.abc import Callable

from assets.page.report import results
from assets.page.report.document import Html, alarm, note, page, section, tag
from assets.page.report.provenance import Provenance, config_section, versions_section
from assets.page.report.refused import refused_section
from assets.page.report.stages import Stages, state, times_section
from assets.settings import Settings
from pipeline.core.disk import storage_errors
from pipeline.core.errors import PipelineError
from pipeline.core.files import fingerprint_of
from pipeline.storage.completion import REPORT
from pipeline.storage.roots import storage_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """``place``: a path, or a URL in an object store. ``digest``: of all but the time of writing. ``open``: stages that
    are not complete, and why."""

    place: str
    digest: str
    bytes: int
    seconds: float
    sections: tuple[str, ...]
    open: dict[str, str]


def write_report(config: Settings, *, run: Provenance | None = None, failure: str | None = None) -> Report:
    """Write ``report.html`` under the root of ``config``, in one step, from its tables and pictures.

    Args:
        config: of which only root and the limits of queries matter.
        run: what the job that ends with it knows, which is kept for later reports; without, what was kept last.
        failure: what a reader has to know first, of a run that failed.

    Returns:
        Where it lies, and what is in it.

    Raises:
        PipelineError: if the root cannot be read or written. A table that is damaged is said so in its section.
    """
    started = time.monotonic()
    root, storage = config.path, storage_of(config.path)
    with storage_errors(f"root {root}"):
        if run is not None:
            run.remember(storage)
        else:
            run = Provenance.recorded(storage)
        stages = Stages.of(storage, run)
        sections = _sections(stages, config, run)
        text = _page(storage.uri("").rstrip("/"), sections, stages, run, failure)
        storage.write_text(REPORT, text)
    return Report(
        place=storage.uri(REPORT),
        digest=fingerprint_of(sections),
        bytes=len(text.encode()),
        seconds=round(time.monotonic() - started, 3),
        sections=tuple(sections),
        open=stages.open,
    )


def _sections(stages: Stages, config: Settings, run: Provenance | None) -> dict[str, Html]:
    """By title; those whose tables are missing are left out."""
    done = stages.done
    wanted: dict[str, tuple[bool, Callable[[], Html]]] = {
        "Balance": ("balance" in done, lambda: results.balance_section(done["balance"], stages, config, run)),
        "Clusters": ("clusters" in done, lambda: results.clusters_section(done["clusters"], config, run)),
        "Training": (bool({"student", "baseline"} & set(done)), lambda: results.training_section(stages, config, run)),
        "Evaluation": ("evaluation" in done, lambda: results.evaluation_section(stages, config, run)),
        "Ablation": ("ablation" in done, lambda: results.ablation_section(done["ablation"], config, run)),
        "Refused": (True, lambda: refused_section(stages, config)),
        "Time and cost": (bool(done), lambda: times_section(stages, run)),
        "Config": (True, lambda: config_section(run)),
        "Versions": (True, lambda: versions_section(run)),
    }
    return {title: _made(title, make) for title, (there, make) in wanted.items() if there}


def _made(title: str, make: Callable[[], Html]) -> Html:
    """One section; what keeps it from being made is said in its place, and takes no other with it."""
    try:
        return make()
    except (PipelineError, OSError) as error:
        return section(title.lower().split()[0], title, alarm(f"This section could not be made: {error}"))


def _page(place: str, sections: dict[str, Html], stages: Stages, run: Provenance | None, failure: str | None) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    last = "the last job that came to its end, " if failure else "the job "
    known = f"Settings and versions of {last}{run.job}. " if run else ""
    links = [tag("a", title, href=f"#{_anchor(title)}") for title in sections]
    return page(
        f"clip-cid: {place}",
        tag("h1", place),
        note(f"{known}Written ", Html(f"<time>{html.escape(now)}</time>.")),
        *state(stages, failure),
        results.numbers(stages, run),
        tag("nav", *links),
        *sections.values(),
    )


def _anchor(title: str) -> str:
    return {"Time and cost": "times"}.get(title, title.lower())
