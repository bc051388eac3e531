"""What all subcommands share: how they report, how they fail, and the options that each of them has."""

import contextlib
import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from pipeline.core.errors import ConfigError, PipelineError

PROGRAM = "clip-cid"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: the work failed; a setting, option or config is wrong; Ctrl-C."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines; errors too, on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the log in detail, and where an error came from.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]

P = ParamSpec("P")


def reported(command: Callable[P, dict[str, Any]]) -> Callable[P, None]:
    """A subcommand whose result is printed: ``summary`` for people, all of it for machines, without its ``exit_code``.

    An error on purpose is one line and an exit code; anything else says how to see more.
    """

    @functools.wraps(command)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> None:
        as_json, debug = bool(options.get("json_")), bool(options.get("debug"))
        _log_to_stderr(debug)
        try:
            result = command(*arguments, **options)
        except KeyboardInterrupt:
            _fail("interrupted", INTERRUPTED, as_json=as_json, debug=debug)
        except (PipelineError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            code = getattr(error, "exit_code", MISUSED if isinstance(error, ConfigError) else FAILED)
            _fail(_one_line(error), code, as_json=as_json, debug=debug)
        except Exception as error:  # noqa: BLE001 - a user sees no stack that was not asked for
            text = f"{type(error).__name__}: {_one_line(error)}; --debug shows where"
            _fail(text, FAILED, as_json=as_json, debug=debug)
        else:
            code = result.pop("exit_code", 0)
            print(json.dumps(result, default=str) if as_json else result["summary"], flush=True)
            if code:
                raise typer.Exit(code)

    return wrapped


def new_output(path: Path, *, overwrite: bool) -> Path:
    """``path``, refused if something is there that shall not be replaced."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; --overwrite replaces it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def written_whole(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` when the block has ended well, and else disappears."""
    import shutil

    new_output(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        yield partial
        if path.exists():
            earlier = path.with_name(f".{path.name}.{os.getpid()}.earlier")
            path.rename(earlier)
            partial.rename(path)
            shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def ends_quietly() -> Iterator[None]:
    """A reader that has gone, as ``| head`` does, and Ctrl-C before any work are no errors to explain."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) if str(error) else type(error).__name__


def _fail(text: str, code: int, *, as_json: bool, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(json.dumps({"error": text, "exit_code": code}) if as_json else f"{PROGRAM}: {text}", file=sys.stderr)
    raise typer.Exit(code)


def _log_to_stderr(debug: bool) -> None:
    """Our own log lines where nobody watches a bar, those of libraries if asked."""
    level = logging.DEBUG if debug else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for name in ("pipeline", "training"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if debug or not sys.stderr.isatty() else logging.WARNING)
