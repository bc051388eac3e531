"""What a root holds, in the form that another library loads."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole

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


@reported
def uids(
    root: Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")],
    output: Annotated[Path, typer.Argument(help="The .npy file to write.")],
    *,
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """The uids of the kept pairs, as DataComp's tools take them: sorted records u8,u8."""
    from pipeline.balance.kept_uids import export_uids
    from pipeline.core.errors import ConfigError
    from pipeline.storage.roots import open_root

    del json_, debug
    if output.suffix != ".npy":
        raise ConfigError(f"{output}: the file's name has to end in .npy")
    partial = new_output(output, overwrite=overwrite).with_name(f".{os.getpid()}.{output.name}")
    try:
        report = export_uids(open_root(root), partial)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return {**dataclasses.asdict(report), "output": str(output), "summary": f"{output}: {report.uids:,} uids"}


COMMANDS = {"onnx": onnx, "transformers": transformers, "uids": uids}
