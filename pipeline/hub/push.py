"""A folder to the Hub: what would go there, and sending it. Nothing here shows a token."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError, HubError, PipelineError, brief
from pipeline.hub.card import CARD_FILE, Kind, read_card

# Of the system, of editors and of git, in any folder.
_HIDDEN = [".*", "*/.*"]
_MARKS = ".marks"
_REFUSALS = {
    401: "the Hub does not know the token: `hf auth login` again, or another HF_TOKEN",
    403: "the token may not write there: it needs the right to write, and you a part in the organization",
    404: "there is no such place on the Hub, or the token may not see it",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Push:
    """What would be sent: ``files`` with their sizes by name in the repository, the card's YAML, and what to mend."""

    folder: Path
    repo: str
    kind: Kind
    files: dict[str, int]
    revision: str | None
    front_matter: str
    hints: list[str]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


def plan_push(folder: Path, repo: str, *, kind: Kind, revision: str | None = None) -> Push:
    """Look at a folder without a connection to anything. ``revision``: the branch to commit to, none for `main`.

    Raises :class:`ConfigError` for a name that the Hub would not take, a folder that is a root, a link that leads out
    of the folder, a card whose YAML is none, and where there is nothing to send.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name of a repository, such as owner/name: {brief(error)}") from error
    if (folder / _MARKS).is_dir():
        raise ConfigError(
            f"{folder} is a root, with all that there is: `clip-cid export {kind}` makes a folder to push"
        )
    files = dict(_files(folder))
    if not files:
        raise ConfigError(f"{folder}: no files to push")
    data = read_card(folder, kind)
    return Push(
        folder=folder,
        repo=repo,
        kind=kind,
        files=files,
        revision=revision,
        front_matter=data.to_yaml() if data is not None else "",
        hints=list(_hints(data, files)),
    )


def push_folder(push: Push, *, private: bool = False) -> str:
    """Make the repository and the branch if they are not there, and send the folder as one commit.

    Returns the commit's URL. Raises :class:`ConfigError` without a token, :class:`HubError` for all that the Hub and
    the way to it may refuse.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise ConfigError("no token for the Hub: `hf auth login` keeps one, or set HF_TOKEN")
    api: Any = HfApi(token=token, library_name="clip-cid")
    with _hub_errors(push.repo, token):
        repo = api.create_repo(push.repo, repo_type=push.kind, private=private or None, exist_ok=True).repo_id
        # The Hub leaves a repository that was there as it was, and says nothing.
        if private and not api.repo_info(repo, repo_type=push.kind).private:
            raise HubError(
                f"{repo} is there already and is public: nothing was sent; make it private, or leave --private"
            )
        if push.revision is not None:
            api.create_branch(repo, branch=push.revision, repo_type=push.kind, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=push.folder,
            repo_type=push.kind,
            revision=push.revision,
            ignore_patterns=_HIDDEN,
            commit_message=f"Upload {len(push.files)} files",
        )
    return str(commit.commit_url)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Those that the Hub's client would send, by its own rules."""
    from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    inside = folder.resolve()
    for name in filter_repo_objects(names, ignore_patterns=[*DEFAULT_IGNORE_PATTERNS, *_HIDDEN]):
        path = folder / name
        if not path.resolve().is_relative_to(inside):
            raise ConfigError(f"{path} leads out of the folder, to {path.resolve()}: put a copy there, or remove it")
        yield name, path.stat().st_size


def _hints(data: Any, files: dict[str, int]) -> Iterator[str]:
    if CARD_FILE not in files:
        yield f"there is no {CARD_FILE}, so the Hub will know nothing of it"
    elif data is None:
        yield f"{CARD_FILE} has no YAML at its head, so the Hub will know nothing of it"
    elif not data.get("license"):
        yield "the card gives no license: export it with --license"


@contextmanager
def _hub_errors(repo: str, token: str) -> Iterator[None]:
    """One line for each way in which the Hub says no."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    def said(error: BaseException) -> str:
        return brief(error).replace(token, "<token>")

    try:
        yield
    except PipelineError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError(f"{repo}: HF_HUB_OFFLINE is set, so that nothing can be sent") from error
    except Exception as error:  # noqa: BLE001 - no network, a broken transfer: of several libraries
        answer = next((one for one in _causes(error) if isinstance(one, HfHubHTTPError)), None)
        if answer is None:
            raise HubError(f"{repo}: cannot be sent: {type(error).__name__}: {said(error)}") from None
        status = answer.response.status_code
        reason = _REFUSALS.get(status, "the Hub refused it")
        raise HubError(f"{repo}: {reason} ({status}: {said(answer)})") from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
