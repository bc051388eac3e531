"""The model config of a student, and the tokenizer it is trained with. No torch here: who asks may train nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.clip.model_config import builtin_config, known_models, read_config_file
from pipeline.clip.tokenizer import tokenizer_of
from pipeline.core.errors import ConfigError
from pipeline.core.settings import DEMO

_DEMO_MODEL = Path(__file__).parents[2] / "pipeline/demo/models/demo-student.json"


def read_student_config(model: str) -> dict[str, Any]:
    """``model_cfg`` by `demo`, model name or JSON file, and ``preprocess_cfg`` where the file has one.

    Raises :class:`ConfigError` if there is none.
    """
    path = _DEMO_MODEL if model == DEMO else Path(model)
    if path.suffix == ".json" or path.is_file():
        try:
            return read_config_file(path)
        except ConfigError as error:
            raise ConfigError(f"student model {model!r}: {error}") from error
    found = builtin_config(model)
    if found is None:
        raise ConfigError(
            f"student model {model!r}: expected `{DEMO}`, a JSON file or an open_clip model name such as "
            f"{', '.join(known_models()[:3])}"
        )
    return {"model_cfg": found}


def read_model_config(model: str) -> dict[str, Any]:
    """The model's part of it."""
    return dict(read_student_config(model)["model_cfg"])


def student_tokenizer(model: str, model_config: dict[str, Any]) -> Callable[[list[str]], Any]:
    """What the text tower is trained with; :class:`ConfigError` where it cannot be had or does not fit."""
    try:
        return tokenizer_of(model_config)
    except ConfigError as error:
        raise ConfigError(f"student model {model!r}: {error}") from error
