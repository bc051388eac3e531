"""A student in the form that another library loads."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, reported, written_whole

Student = Annotated[
    Path, typer.Argument(help="An open_clip folder, such as data/demo/student.", exists=True, file_okay=False)
]


@reported
def onnx(
    student: Student,
    output: Annotated[Path, typer.Argument(help="The folder to write: image.onnx and text.onnx.")],
    *,
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Both towers as ONNX, run once with onnxruntime and compared with torch. Needs clip-cid[onnx]."""
    from training.export.to_onnx import export_onnx

    del json_, debug
    with written_whole(output, overwrite=overwrite) as folder:
        differences = export_onnx(student, folder)
    text = ", ".join(f"{name} within {value:.1e} of torch" for name, value in differences.items())
    return {"largest_difference": differences, "output": str(output), "summary": f"{output}: {text}"}


@reported
def transformers(
    student: Student,
    output: Annotated[Path, typer.Argument(help="The folder to write, for CLIPModel.from_pretrained.")],
    *,
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """A folder for transformers' CLIPModel, loaded once and compared with open_clip. Needs clip-cid[transformers]."""
    from training.export.to_transformers import export_transformers

    del json_, debug
    with written_whole(output, overwrite=overwrite) as folder:
        difference = export_transformers(student, folder)
    return {
        "largest_difference": difference,
        "output": str(output),
        "summary": f"{output}: logits of pictures and captions within {difference:.1e} of open_clip's",
    }


COMMANDS = {"onnx": onnx, "transformers": transformers}
