"""What a root holds in the form that others load: a data set, results, a model with its card, a student elsewhere."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole

Student = Annotated[
    Path, typer.Argument(help="An open_clip folder, such as data/demo/student.", exists=True, file_okay=False)
]

Root = Annotated[str, typer.Argument(help="A root: a folder, or a URL such as s3://bucket/prefix.")]
License = Annotated[
    str | None, typer.Option("--license", help="Identifier for the card, such as cc-by-4.0; of what is written.")
]


@reported
def dataset(
    root: Root,
    output: Annotated[Path, typer.Argument(help="The folder to write: data/train-*.parquet and README.md.")],
    *,
    images: Annotated[bool, typer.Option("--images", help="Also the bytes of the images, as they are stored.")] = False,
    shard_size: Annotated[str, typer.Option(help="Size after which a file is full, such as 500MB.")] = "500MB",
    license_: License = None,
    memory_limit: Annotated[str, typer.Option(help="Memory for DuckDB to stay within, such as 4GB.")] = "2GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """The kept images as a Hugging Face data set: a row for each, and a card. For datasets.load_dataset and the Hub."""
    from pipeline.core.query import QueryConfig
    from pipeline.core.settings import Size, parse_size
    from pipeline.export_dataset.export import export_dataset
    from pipeline.storage.roots import open_root

    del json_, debug
    config = QueryConfig(memory_limit=Size(parse_size(memory_limit, what="--memory-limit")))
    with written_whole(output, overwrite=overwrite) as folder:
        report = export_dataset(
            open_root(root),
            folder,
            images=images,
            shard_size=shard_size,
            license=license_,
            name=output.resolve().name,
            query_config=config,
        )
    hint = "" if license_ else "; the card gives no license, which --license does"
    return {
        **dataclasses.asdict(report),
        "output": str(output),
        "summary": f"{output}: {report.images:,} images with {report.captions:,} captions in {report.files:,} files, "
        f"{report.bytes / 1e6:,.1f} MB, hash {report.kept_hash}{hint}",
    }


@reported
def evaluation(
    root: Root,
    output: Annotated[Path, typer.Argument(help="The folder to write: a JSON file per data set, model and task.")],
    *,
    language: Annotated[str, typer.Option(help="That of class names and prompts.")] = "en",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """What the evaluation measured, as LAION's CLIP_benchmark writes it; `clip_benchmark build` makes a CSV of it."""
    from pipeline.storage.roots import open_root
    from training.export.to_clip_benchmark import export_evaluation

    del json_, debug
    with written_whole(output, overwrite=overwrite) as folder:
        exported = export_evaluation(open_root(root), folder, language=language)
    said = f"{output}: {exported.files} results of {', '.join(exported.models)}"
    hint = f"; {', '.join(exported.outdated)}: made anew since, run the evaluation again" if exported.outdated else ""
    return {**dataclasses.asdict(exported), "output": str(output), "summary": said + hint}


@reported
def model(
    root: Root,
    output: Annotated[Path, typer.Argument(help="The folder to write: the open_clip folder and README.md.")],
    *,
    name: Annotated[
        Literal["student", "baseline"], typer.Option("--model", help="Which model of the root.")
    ] = "student",
    license_: License = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="A data set on the Hub that it was trained on; may be given again."),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """A trained model with its final card, which has what the evaluation measured. The root stays as it is."""
    from pipeline.storage.roots import open_root
    from training.export.to_hub import export_model

    del json_, debug
    with written_whole(output, overwrite=overwrite) as folder:
        exported = export_model(
            open_root(root), name, folder, title=output.resolve().name, license=license_, datasets=trained_on or []
        )
    said = [f"{output}: {name} with {exported.results} results of its evaluation", *exported.hints]
    return {**dataclasses.asdict(exported), "output": str(output), "summary": "; ".join(said)}


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


COMMANDS = {
    "dataset": dataset,
    "evaluation": evaluation,
    "model": model,
    "onnx": onnx,
    "transformers": transformers,
    "uids": uids,
}
