"""Every error that a user can cause or must act on. Each message names what was got and what was expected."""

from pathlib import Path


class PipelineError(Exception):
    """Base of all errors raised on purpose by this project.

    ``damaged``: the file whose bytes are not those that were written, if that is the cause; a stage that meets it sees
    to it that the next run makes the file anew.
    """

    def __init__(self, *args: object, damaged: Path | None = None):
        super().__init__(*args)
        self.damaged = damaged


class ConfigError(PipelineError, ValueError):
    """A setting is impossible, alone or together with another one or with the data."""


class BlocklistError(ConfigError):
    """A blocklist is missing, unreadable, without a usable column or entry, or blocks everything."""


class ComputeError(PipelineError):
    """The cluster has no room for the work, or lost what was at work on it too often."""


class SourceError(PipelineError):
    """A list of pairs is missing, unreadable, lacks a column or holds no usable pair."""


class DownloadError(PipelineError):
    """The download could not run, or made nothing that later stages could use."""


class TeacherError(PipelineError):
    """The teacher is unknown, or its weights do not fit its model config."""


class ShardError(PipelineError):
    """A shard is truncated, lacks a member, or disagrees with its manifest."""


class EmbeddingError(PipelineError):
    """Embeddings are missing, malformed, not finite or not normalized."""


class MissingInputError(PipelineError):
    """An earlier stage has not been completed under this root, or was changed since."""


class StorageError(PipelineError):
    """The root cannot be written, is full, or was written by a newer version."""


class HubError(PipelineError):
    """The Hub cannot be reached, or refuses what is sent to it."""


class TrainingError(PipelineError):
    """Training cannot start, or had to stop."""


class NonFiniteLossError(TrainingError):
    """A loss became NaN or infinite; raised before the optimizer step, with step and sample ids."""


def brief(error: BaseException, limit: int = 400) -> str:
    """The text of an error of another library, in one line: some hold whole files, or the names of all tensors."""
    text = " ".join(str(error)[: 4 * limit].split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."
