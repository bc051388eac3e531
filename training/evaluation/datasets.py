"""Evaluation sets in CLIP_benchmark's WebDataset layout, checked whole before anything is computed.

``classnames.txt`` and ``zeroshot_classification_templates.txt`` (lines with ``{c}``) lie beside ``train/`` and
``test/``, which hold tars of samples: an image, ``cls`` (class id as text) and ``txt`` (captions, one a line).
``<split>/nshards.txt`` says how many tars a split has and ``<split>/count.txt`` how many samples, each if it is there.
"""

import dataclasses
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ConfigError, ShardError

CLASSNAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
PLACEHOLDER = "{c}"
TRAIN, TEST = "train", "test"
CLEAN = " (clean)"
"""What follows the name of a set whose test samples are those that did not leak."""

_IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# Two zero blocks end an archive; a file without the first one was cut short, which tarfile does not mind.
_END_MARK_BYTES = 512


@dataclasses.dataclass(frozen=True, slots=True)
class ImageMember:
    """Where the bytes of one image lie."""

    tar: Path
    key: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """What tells it from all others of its data set: split, tar and key, ``test/0.tar/000003``."""
        return f"{self.tar.parent.name}/{self.tar.name}/{self.key}"

    def read(self) -> bytes:
        """The bytes, as they lie in the tar."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The samples of one split, in the order of the shards.

    ``labels`` and ``captions`` run along ``images``; each is empty if the samples have no such member.
    """

    name: str
    images: tuple[ImageMember, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A data set; ``classnames``, ``templates`` and ``train`` are empty or None where the folder has none."""

    name: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    train: Split | None
    test: Split


def read_evaluation_set(folder: Path) -> EvaluationSet:
    """Read a data set's class names, templates and the contents of its tars, but no pixels.

    Raises :class:`ConfigError` for a missing folder or one without test samples, and :class:`ShardError` for a missing,
    truncated or malformed shard, or a class id without a class name.
    """
    if not folder.is_dir():
        raise ConfigError(f"evaluation set {folder}: no such folder")
    name = folder.resolve().name
    classnames, templates = _file_lines(folder / CLASSNAMES_FILE), _file_lines(folder / TEMPLATES_FILE)
    for number, template in enumerate(templates, start=1):
        if PLACEHOLDER not in template:
            raise ConfigError(
                f"{folder / TEMPLATES_FILE}, line {number}: expected {PLACEHOLDER} in every line, got {template!r}"
            )
    if not (folder / TEST).is_dir():
        raise ConfigError(f"evaluation set {folder}: no folder {TEST}/ in it")
    return EvaluationSet(
        name=name,
        classnames=classnames,
        templates=templates,
        train=_read_split(folder / TRAIN, name, len(classnames)) if (folder / TRAIN).is_dir() else None,
        test=_read_split(folder / TEST, name, len(classnames)),
    )


def _file_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text file without blank ones at its end; empty if there is no such file."""
    if not path.exists():
        return ()
    try:
        lines = _lines(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}, {error}") from error
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        # A class id is the number of a line, so all that follow would have the name of another.
        raise ConfigError(f"{path}, line {lines.index('') + 1}: blank, but more lines follow")
    return tuple(lines)


def _lines(data: bytes) -> list[str]:
    """Of UTF-8 with whatever mark and line ends; nothing else that Unicode takes for a line's end is one.

    Raises ``ValueError`` with the first line that is not UTF-8.
    """
    try:
        return [line.strip() for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: not UTF-8, at {error.object[error.start : error.start + 8]!r}") from error


def _read_split(folder: Path, dataset: str, classes: int) -> Split:
    samples = [(tar, key, members) for tar in _tars(folder) for key, members in _samples(tar)]
    name = f"{dataset}/{folder.name}"
    expected = _number(folder / "count.txt")
    if not samples or (expected is not None and len(samples) != expected):
        wanted = "at least one" if expected is None else f"{expected} by count.txt"
        raise ShardError(f"evaluation set {name}: {len(samples)} samples in {folder}, expected {wanted}")
    images, labels, captions = [], [], []
    for tar, key, members in samples:
        images.append(ImageMember(tar, key, members.offset, members.size))
        if members.label is not None:
            labels.append(_label(members.label, classes, f"{tar}, key {key}"))
        if members.text is not None:
            captions.append(_captions(members.text, f"{tar}, key {key}"))
    for extension, found in (("cls", len(labels)), ("txt", len(captions))):
        if found not in (0, len(samples)):
            raise ShardError(f"evaluation set {name}: {found} of {len(samples)} samples have a {extension} member")
    return Split(name=name, images=tuple(images), labels=tuple(labels), captions=tuple(captions))


def _tars(folder: Path) -> list[Path]:
    """The split's tars by number, if they are numbered, else by name. A gap in the numbers is a missing shard."""
    tars = sorted(folder.glob("*.tar"))
    numbered = all(tar.stem.isdecimal() for tar in tars)
    if numbered:
        tars.sort(key=lambda tar: int(tar.stem))
    expected = _number(folder / "nshards.txt")
    if expected is not None and len(tars) != expected:
        raise ShardError(f"{folder}: {len(tars)} tars, expected {expected} by nshards.txt")
    numbers = {int(tar.stem) for tar in tars} if numbered else set()
    gaps = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    if gaps:
        raise ShardError(f"{folder}: tars are numbered up to {max(numbers)}, but {gaps[0]}.tar is missing")
    return tars


def _number(path: Path) -> int | None:
    if not path.exists():
        return None
    text = path.read_bytes().decode("utf-8-sig", "replace").strip()
    if not text.isdecimal():
        raise ShardError(f"{path}: expected a number, got {text!r}")
    return int(text)


@dataclasses.dataclass
class _Members:
    """What a tar holds of one sample."""

    extensions: list[str] = dataclasses.field(default_factory=list)
    offset: int = -1
    size: int = -1
    label: bytes | None = None
    text: bytes | None = None


def _samples(path: Path) -> Iterator[tuple[str, _Members]]:
    """``(key, members)`` of every sample of a tar, in the order of their first members."""
    samples: dict[str, _Members] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    key, extension = _split_name(member.name)
                    _add(samples.setdefault(key, _Members()), tar, member, extension, f"{path}, key {key}")
            end = tar.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ShardError(f"{path}: not a readable tar: {error!r}") from error
    if path.stat().st_size < end + _END_MARK_BYTES:
        raise ShardError(f"{path}: truncated, its end-of-archive mark is missing")
    for key, members in samples.items():
        if members.offset < 0:
            raise ShardError(
                f"{path}, key {key}: no image, expected one of {', '.join(_IMAGE_EXTENSIONS)}; "
                f"found {', '.join(members.extensions)}"
            )
        yield key, members


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the extension starts at the first dot of the file's name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _add(members: _Members, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str, where: str) -> None:
    if extension in members.extensions:
        raise ShardError(f"{where}: two members {extension}; keys must be unique")
    members.extensions.append(extension)
    if extension in _IMAGE_EXTENSIONS:
        members.offset, members.size = member.offset_data, member.size
    elif extension in ("cls", "txt"):
        content = tar.extractfile(member)
        assert content is not None
        if extension == "cls":
            members.label = content.read()
        else:
            members.text = content.read()


def _label(text: bytes, classes: int, where: str) -> int:
    """The class id; ``classes`` is 0 if there are no class names to check it against."""
    if not text.strip().isdigit():
        raise ShardError(f"{where}: cls must be a class id, got {text[:40]!r}")
    label = int(text)
    if classes and label >= classes:
        raise ShardError(
            f"{where}: class id {label}, expected one below {classes}, the number of names in {CLASSNAMES_FILE}"
        )
    return label


def _captions(text: bytes, where: str) -> tuple[str, ...]:
    try:
        captions = tuple(line for line in _lines(text) if line)
    except ValueError as error:
        raise ShardError(f"{where}: txt, {error}") from error
    if not captions:
        raise ShardError(f"{where}: txt holds no caption")
    return captions
