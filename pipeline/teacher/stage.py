"""The teacher, resolved once into an open_clip folder that every later stage loads in the same way.

Whatever the config names (the demo's own, a pretrained tag, a checkpoint file, a folder), the stage ends with
``teacher/open_clip_config.json`` and ``teacher/open_clip_model.safetensors``, which plain open_clip takes as
``local-dir:<folder>``, and with hashes of both. Checkpoints are read with ``weights_only``, never unpickled.
"""

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.clip.checkpoint import check_weights, looks_like_a_path, read_checkpoint
from pipeline.clip.model import CONFIG_FILE, WEIGHTS_FILE, write_clip_folder
from pipeline.clip.model_config import builtin_config, check_text_tower, is_hugging_face, known_models, read_config_file
from pipeline.clip.tokenizer import save_tokenizer, tokenizer_of
from pipeline.core.errors import ConfigError, TeacherError, brief
from pipeline.core.files import file_digest, file_identity, fingerprint_of
from pipeline.core.settings import DEMO
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Output, Stage
from pipeline.teacher.config import TeacherConfig

log = logging.getLogger(__name__)

INFO_FILE = "teacher/teacher.json"


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
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                output.path(f"teacher/{path.name}")
        info = describe(folder, name=config.model)
        output.path(INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=1))
        output.rows, output.stats = 1, {**dataclasses.asdict(info), "pretrained": config.pretrained}
        # Not in the file, by whose bytes embeddings know whether it is the same teacher.
        output.stats["logit_scale"] = _logit_scale(folder / WEIGHTS_FILE)

    return stage.each(write)


def check_teacher(config: TeacherConfig) -> None:
    """Raise :class:`TeacherError` for a model or checkpoint that is not there or not what it should be, without loading
    anything.

    It is for the stages before: a misspelled name should not be found out when the download is done.
    """
    # A colon stands in open_clip's own schemes, such as hf-hub:, which only open_clip can resolve.
    if config.model == DEMO or (":" in config.model and not Path(config.model).exists()):
        return
    try:
        check_text_tower(_model_config(config)["model_cfg"])
        if Path(config.model).is_dir():
            weights = Path(config.model) / WEIGHTS_FILE
            if weights.exists():
                check_weights(weights)
        elif config.pretrained is None:
            raise ConfigError("has no weights: set `pretrained` to a tag or a checkpoint file")
        elif Path(config.pretrained).exists() or looks_like_a_path(config.pretrained):
            check_weights(Path(config.pretrained))
        else:
            _check_tag(config.model, config.pretrained)
    except TeacherError:
        raise
    except ConfigError as error:
        raise TeacherError(f"teacher {config.model!r}: {error}") from error


def read_info(root: Path) -> TeacherInfo:
    """The resolved teacher's hashes and width."""
    storage_of(root).fetch([INFO_FILE])
    return TeacherInfo(**json.loads((Path(root) / INFO_FILE).read_text()))


def logit_scale(root: Path) -> float | None:
    """The factor of the resolved teacher's cosines; none for a model without."""
    result = read_result(Path(root), "teacher")
    if "logit_scale" in result.stats:
        return result.stats["logit_scale"]
    # Earlier versions did not note it.
    return _logit_scale(teacher_folder(root) / WEIGHTS_FILE)


def teacher_folder(root: Path) -> Path:
    """The resolved teacher's open_clip folder, there to be loaded."""
    storage_of(root).fetch(f"teacher/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE))
    folder = Path(root) / "teacher"
    if is_hugging_face(read_config_file(folder / CONFIG_FILE)["model_cfg"]):
        # Its tokenizer has files of its own.
        read_result(Path(root), "teacher").folder("teacher")
    return folder


def describe(folder: Path, *, name: str) -> TeacherInfo:
    """Hash an open_clip folder."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    return TeacherInfo(
        name=name,
        weights_hash=file_digest(folder / WEIGHTS_FILE),
        preprocessing_hash=fingerprint_of(config["preprocess_cfg"]),
        embed_dim=int(config["model_cfg"]["embed_dim"]),
    )


def _logit_scale(weights: Path) -> float | None:
    from safetensors import safe_open

    with safe_open(str(weights), framework="numpy") as file:
        names = set(file.keys())
        return math.exp(file.get_tensor("logit_scale").item()) if "logit_scale" in names else None


def _identity(config: TeacherConfig) -> Any:
    """What the config's files are now, so that a replaced checkpoint is noticed."""
    paths = [Path(name) for name in (config.model, config.pretrained) if name and Path(name).exists()]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("open_clip*")))]
    return [file_identity(file) for file in files]


def _save(config: TeacherConfig, folder: Path) -> None:
    """Load what the config names with open_clip and write it as an open_clip folder."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    check_teacher(config)
    path, content = Path(config.model), _model_config(config)
    try:
        if config.pretrained and Path(config.pretrained).is_file() and not path.is_dir():
            model = _from_file(content, Path(config.pretrained), folder)
        else:
            name = f"local-dir:{path}" if path.is_dir() else config.model
            model = open_clip.create_model(
                name, pretrained=config.pretrained, require_pretrained=True, weights_only=True, precision="fp32"
            )
        tokenizer = tokenizer_of(content["model_cfg"], folder=path if path.is_dir() else None)
    except Exception as error:
        raise TeacherError(f"teacher {config.model!r}, pretrained {config.pretrained!r}: {brief(error)}") from error
    preprocess = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    write_clip_folder(
        folder,
        model_config=content["model_cfg"],
        preprocess_config=dataclasses.asdict(preprocess),
        state=model.state_dict(),
    )
    save_tokenizer(tokenizer, folder)


def _from_file(content: dict[str, Any], checkpoint: Path, scratch: Path) -> Any:
    """The model of a config with the weights of a file, whatever wraps them. A logit bias that the config does not know
    is added to it: it is part of a SigLIP's logits, if not of its embeddings."""
    import open_clip
    import safetensors.torch

    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        plain = checkpoint
        # open_clip reads big_vision's arrays by itself.
        if checkpoint.suffix not in (".npz", ".npy"):
            state = read_checkpoint(checkpoint)
            if "logit_bias" in state:
                content["model_cfg"].setdefault("init_logit_bias", 0.0)
            plain = Path(temporary) / "plain.safetensors"
            safetensors.torch.save_file({name: value.clone().contiguous() for name, value in state.items()}, str(plain))
            del state
        # open_clip builds any config from a folder.
        (Path(temporary) / CONFIG_FILE).write_text(json.dumps(content))
        model = open_clip.create_model(f"local-dir:{temporary}", load_weights=False, pretrained_text=False)
        open_clip.load_checkpoint(model, str(plain), weights_only=True)
    return model


def _model_config(config: TeacherConfig) -> dict[str, Any]:
    """``model_cfg`` that the teacher is built from, and ``preprocess_cfg`` where its file has one."""
    path = Path(config.model)
    try:
        if path.is_dir():
            return read_config_file(path / CONFIG_FILE)
        if path.is_file() or looks_like_a_path(config.model):
            return read_config_file(path)
    except ConfigError as error:
        raise TeacherError(f"teacher {config.model!r}: not a readable open_clip config: {error}") from error
    if ":" in config.model:
        import open_clip

        try:
            return {"model_cfg": dict(open_clip.get_model_config(config.model))}
        except Exception as error:
            raise TeacherError(f"teacher {config.model!r}: {brief(error)}") from error
    found = builtin_config(config.model)
    if found is None:
        raise _unknown_teacher(config.model, known_models())
    return {"model_cfg": found}


def _check_tag(model: str, tag: str) -> None:
    import open_clip

    found = open_clip.get_pretrained_cfg(model, tag)
    if not found:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ConfigError(f"pretrained {tag!r} is neither a file nor a tag of this model, which has: {tags}")
    if bool(found.get("quick_gelu")) != bool((builtin_config(model) or {}).get("quick_gelu")):
        raise ConfigError(
            f"its activation is not that of the weights {tag!r}; those with QuickGELU go with the model of the same "
            "name and the ending -quickgelu"
        )


def _unknown_teacher(model: str, known: list[str]) -> TeacherError:
    similar = ", ".join(name for name in known if name.startswith(model[:5])) or "see open_clip"
    return TeacherError(f"teacher {model!r}: neither a file nor an open_clip model; similar names: {similar}")
