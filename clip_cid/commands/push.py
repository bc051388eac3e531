"""A folder to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, reported
from pipeline.hub.card import Kind

Repo = Annotated[str, typer.Argument(help="The repository, owner/name; it is made if it is not there.")]
Private = Annotated[bool, typer.Option("--private", help="Make it private, and send nothing to a public one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and open no connection.")]
Revision = Annotated[str | None, typer.Option(help="The branch, made if it is not there; main without it.")]


@reported
def model(
    folder: Annotated[
        Path, typer.Argument(help="What `clip-cid export` has made of a student.", exists=True, file_okay=False)
    ],
    repo: Repo,
    *,
    private: Private = False,
    dry_run: DryRun = False,
    revision: Revision = None,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Send a model to the Hub, as one commit. The token is that of `hf auth login`, or HF_TOKEN."""
    del json_, debug
    return _push(folder, repo, "model", private=private, dry_run=dry_run, revision=revision)


@reported
def dataset(
    folder: Annotated[
        Path, typer.Argument(help="What `clip-cid export dataset` has made.", exists=True, file_okay=False)
    ],
    repo: Repo,
    *,
    private: Private = False,
    dry_run: DryRun = False,
    revision: Revision = None,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Send a data set to the Hub, as one commit. The token is that of `hf auth login`, or HF_TOKEN."""
    del json_, debug
    return _push(folder, repo, "dataset", private=private, dry_run=dry_run, revision=revision)


def _push(folder: Path, repo: str, kind: Kind, *, private: bool, dry_run: bool, revision: str | None) -> dict[str, Any]:
    from pipeline.hub.push import plan_push, push_folder

    plan = plan_push(folder, repo, kind=kind, revision=revision)
    size = f"{len(plan.files):,} files, {plan.bytes / 1e6:,.1f} MB"
    result = {"repo": repo, "kind": kind, "files": plan.files, "bytes": plan.bytes, "hints": plan.hints}
    hints = [f"! {hint}" for hint in plan.hints]
    if not dry_run:
        url = push_folder(plan, private=private)
        return {**result, "commit": url, "summary": "\n".join([f"{url}: {size}", *hints])}
    visible = "private" if private else "public, unless its owner's default is private"
    lines = [
        *(f"{bytes_:>15,}  {name}" for name, bytes_ in plan.files.items()),
        *(("", plan.front_matter, "") if plan.front_matter else ()),
        f"would make {kind} {repo} if it is not there ({visible}), and commit {size} to {revision or 'main'}",
        *hints,
    ]
    return {**result, "front_matter": plan.front_matter, "commit": None, "summary": "\n".join(lines)}


COMMANDS = {"model": model, "dataset": dataset}
