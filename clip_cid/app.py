"""The command ``clip-cid``: its subcommands, and nothing that loads what only one of them needs."""

import sys
from typing import Annotated

import typer

from clip_cid.commands import advise, config, data, doctor, explore, export, purge, push, report, run, verify
from clip_cid.console import PROGRAM, ends_quietly


def new_app(help_text: str | None = None) -> typer.Typer:
    """An app without color, whose errors are ours."""
    return typer.Typer(
        help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=True
    )


app = new_app("From image URLs and captions to a balanced, queryable data set and a small CLIP student.")
app.command()(data.forest)
app.command()(data.leaks)
app.command()(advise.advise)
app.command()(explore.explore)
app.command()(data.balance)
app.command()(data.clusters)
app.command("import")(data.import_)
app.command()(run.run)
app.command()(report.report)
app.command()(verify.verify)
app.command()(purge.purge)
app.command()(doctor.doctor)
for name, module in (("config", config), ("export", export), ("push", push)):
    group = new_app(module.__doc__)
    for command_name, command in module.COMMANDS.items():
        group.command(command_name)(command)
    app.add_typer(group, name=name)


def _version(asked: bool) -> None:
    if asked:
        from clip_cid import __version__

        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


def main() -> None:
    """What the console script calls."""
    with ends_quietly():
        app(prog_name=PROGRAM)
    sys.exit(0)
