"""The root logger, kept as Python begins: it writes warnings that nobody else writes, and nothing else."""

import logging


def keep_root_quiet() -> None:
    """Let no library make this process write every log line twice.

    A call of ``logging.info`` where root has no handler, as open_clip's, installs one. It writes what loggers hand up,
    also what a handler further down has written already: Dagster's, of loggers that it manages. Where there is
    a handler none is installed, so this one does what Python's last resort did. A root that has handlers is left alone.
    """
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        handler.addFilter(_is_unwritten)
        root.addHandler(handler)


def _is_unwritten(record: logging.LogRecord) -> bool:
    """Whether no logger on a record's way up to root has a handler."""
    logger = logging.getLogger(record.name)
    while logger.parent is not None:
        if logger.handlers:
            return False
        logger = logger.parent
    return True
