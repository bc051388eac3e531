"""``catalog.sql``: the tables under a root as DuckDB views."""

import contextlib
import logging
import re
from pathlib import Path, PurePosixPath

from pipeline.core.disk import REFUSED
from pipeline.core.files import write_text_atomically
from pipeline.storage.completion import complete_mark
from pipeline.storage.protocol import Storage
from pipeline.storage.roots import storage_of

log = logging.getLogger(__name__)

FILE = "catalog.sql"
PLACE_VARIABLE = "clip_cid_root"
"""The DuckDB variable by which a reader says where the root is now, if it was moved or copied."""

# Their files are not rows of one table.
_NO_TABLES = {"demo", "ablation_data"}

_HEAD = f"""\
-- One view per table. Use: duckdb -init {FILE}, or duckdb.execute(open("{FILE}").read()), from any folder.
-- Where the root was moved or copied: SET VARIABLE {PLACE_VARIABLE} = '/where/it/is'; first, or run any job on it.
"""
_REMOTE = "-- Before it: INSTALL httpfs; CREATE SECRET (TYPE s3, PROVIDER credential_chain);\n"


def write_catalog(root: Path) -> Path:
    """Write ``catalog.sql``: one DuckDB view per table of the stages that are complete.

    The text of a script does not know where it was read from, and DuckDB takes a relative path from the working
    directory. So views hold the place of the root in full, and a variable that overrules it.
    """
    storage = storage_of(root)
    text = _HEAD + (_REMOTE if storage.remote else "")
    # Views read the variable themselves: they stay whole in other connections, a database file, or attached.
    place = f"coalesce(getvariable('{PLACE_VARIABLE}'), {_place(storage)})"
    for table in _tables(storage):
        files = f"{place} || '/{table}/*.parquet'"
        text += f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet({files}, hive_partitioning = false);\n"
    storage.write_text(FILE, text)
    path = Path(root) / FILE
    if storage.remote:
        write_text_atomically(path, text)
    return path


def _tables(storage: Storage) -> list[str]:
    """Folders of the root with Parquet files that a stage has made."""
    marks = [complete_mark(storage, stage) for stage in storage.folders(".marks")]
    names = [PurePosixPath(name) for mark in marks if mark for name in mark.files]
    tables = {name.parts[0] for name in names if len(name.parts) == 2 and name.suffix == ".parquet"}
    return sorted(tables - _NO_TABLES)


def follow_move(root: Path) -> None:
    """Write the catalog of a root anew if the root is no longer where the catalog says; a URL does not move."""
    storage = storage_of(root)
    if storage.remote:
        return
    with contextlib.suppress(FileNotFoundError):
        if _place(storage) not in (Path(root) / FILE).read_text():
            try:
                write_catalog(root)
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
                log.warning("%s: cannot be written, and says where the root was before", Path(root) / FILE)


def _place(storage: Storage) -> str:
    """Where the root is, as SQL: in a class of its own a character of patterns stands for itself."""
    pattern = re.sub(r"[*?[]", r"[\g<0>]", storage.uri("").rstrip("/"))
    return "'{}'".format(pattern.replace("'", "''"))
