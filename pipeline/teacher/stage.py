"""The teacher, resolved once into an open_clip folder that every later stage loads in the same way.

Whatever the config names (the demo's own, a pretrained tag, a checkpoint file, a folder), the stage ends with
``teacher/open_clip_config.json`` and ``teacher/open_clip_model.safetensors``, which plain open_clip takes as
``local-dir:<folder>``, and with hashes of both. Checkpoints are read with ``weights_only``, never unpickled.
"""

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.clip.model import CONFIG_FILE, WEIGHTS_FILE, write_clip_folder
from pipeline.core.errors import TeacherError
from pipeline.core.files import file_digest, file_identity, fingerprint_of
from pipeline.core.settings import DEMO
from pipeline.storage.result import StageResult
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from pipeline.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

INFO_FILE = "teacher/teacher.json"
_CHECKPOINT_ENDINGS = (".bin", ".pt", ".pth", ".safetensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """What later stages record and compare: a teacher is these three hashes and its embedding width."""

    name: str
    weights_hash: str
    preprocessing_hash: str
    embed_dim: int


def resolve_teacher(
    root: Path, config: TeacherConfig, *, demo: Callable[[Path], Any], demo_identity: Any = None
) -> StageResult:
    """Stage ``teacher``. ``demo`` trains the demo's own teacher into a folder; ``demo_identity`` is its config.

    Raises :class:`TeacherError` for an unknown model or tag, or weights that do not fit the model config.
    """
    identity = demo_identity if config.model == DEMO else _identity(config)
    stage = Stage(root, "teacher", version=1, config=config.content(), inputs={"teacher": identity})

    def write(output: Output) -> None:
        folder = output.path(f"teacher/{CONFIG_FILE}").parent
        output.path(f"teacher/{WEIGHTS_FILE}")
        if config.model == DEMO:
            demo(folder)
        else:
            _save(config, folder)
        info = describe(folder, name=config.model)
        output.path(INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=1))
        output.rows, output.stats = 1, dataclasses.asdict(info)

    return stage.each(write)


def check_teacher(config: TeacherConfig) -> None:
    """Raise :class:`TeacherError` for a model or checkpoint that is not there, without loading anything.

    It is for the stages before: a misspelled name should not be found out when the download is done.
    """
    checkpoint = Path(config.pretrained or "")
    if checkpoint.suffix in _CHECKPOINT_ENDINGS and not checkpoint.is_file():
        raise TeacherError(f"teacher {config.model!r}: no checkpoint file {config.pretrained!r}")
    # A colon stands in open_clip's own schemes, such as hf-hub:, which only open_clip can resolve.
    if config.model == DEMO or ":" in config.model or Path(config.model).exists():
        return
    known = _known_models()
    if config.model not in known:
        raise _unknown_teacher(config.model, known)


def read_info(root: Path) -> TeacherInfo:
    """The resolved teacher's hashes and width."""
    storage_of(root).fetch([INFO_FILE])
    return TeacherInfo(**json.loads((Path(root) / INFO_FILE).read_text()))


def teacher_folder(root: Path) -> Path:
    """The resolved teacher's open_clip folder, there to be loaded."""
    storage_of(root).fetch(f"teacher/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE))
    return Path(root) / "teacher"


def describe(folder: Path, *, name: str) -> TeacherInfo:
    """Hash an open_clip folder."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    return TeacherInfo(
        name=name,
        weights_hash=file_digest(folder / WEIGHTS_FILE),
        preprocessing_hash=fingerprint_of(config["preprocess_cfg"]),
        embed_dim=int(config["model_cfg"]["embed_dim"]),
    )


def _identity(config: TeacherConfig) -> Any:
    """What the config's files are now, so that a replaced checkpoint is noticed."""
    paths = [Path(name) for name in (config.model, config.pretrained) if name and Path(name).exists()]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("open_clip*")))]
    return [file_identity(file) for file in files]


def _save(config: TeacherConfig, folder: Path) -> None:
    """Load what the config names with open_clip and write it as an open_clip folder."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    model_config = _model_config(config)
    if config.pretrained is None and not Path(config.model).is_dir():
        raise TeacherError(f"teacher {config.model!r} has no weights: set `pretrained` to a tag or a checkpoint file")
    tag = open_clip.get_pretrained_cfg(config.model, config.pretrained or "")
    if tag and bool(tag.get("quick_gelu")) != bool(model_config.get("quick_gelu")):
        raise TeacherError(
            f"teacher {config.model!r}: its activation is not that of the weights {config.pretrained!r}; "
            f"those with QuickGELU go with the model of the same name and the ending -quickgelu"
        )
    name = f"local-dir:{config.model}" if Path(config.model).is_dir() else config.model
    try:
        if Path(config.model).is_file():
            # open_clip finds a config by its file's stem.
            open_clip.add_model_config(Path(config.model))
            name = Path(config.model).stem
        model = open_clip.create_model(
            name, pretrained=config.pretrained, require_pretrained=True, weights_only=True, precision="fp32"
        )
    except Exception as error:
        raise TeacherError(f"teacher {config.model!r}, pretrained {config.pretrained!r}: {error}") from error
    preprocess = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    write_clip_folder(
        folder, model_config=model_config, preprocess_config=dataclasses.asdict(preprocess), state=model.state_dict()
    )


def _model_config(config: TeacherConfig) -> dict[str, Any]:
    """The open_clip model config that the teacher is built from."""
    import open_clip

    path = Path(config.model)
    try:
        if path.is_dir():
            return dict(json.loads((path / CONFIG_FILE).read_text())["model_cfg"])
        if path.is_file():
            return dict(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(f"teacher {config.model!r}: not a readable open_clip config: {error!r}") from error
    found = open_clip.get_model_config(config.model)
    if found is None:
        raise _unknown_teacher(config.model, open_clip.list_models())
    return dict(found)


def _known_models() -> list[str]:
    """open_clip's model names by its files: importing it would take seconds."""
    package = importlib.util.find_spec("open_clip")
    folders = (package.submodule_search_locations if package else None) or ()
    return sorted(path.stem for folder in folders for path in (Path(folder) / "model_configs").glob("*.json"))


def _unknown_teacher(model: str, known: list[str]) -> TeacherError:
    similar = ", ".join(name for name in known if name.startswith(model[:5])) or "see open_clip"
    return TeacherError(f"teacher {model!r}: neither a file nor an open_clip model; similar names: {similar}")
