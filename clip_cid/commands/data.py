"""Subcommands on embeddings: ``forest``, ``leaks``, ``balance``, ``clusters``, ``import``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from clip_cid.console import Debug, Json, Overwrite, new_output, reported, written_whole

Embeddings = Annotated[
    Path,
    typer.Argument(help="A Parquet file or a folder of them: ids and unit vectors.", exists=True),
]
IdColumn = Annotated[str, typer.Option(help="The column of the ids, such as image_id.")]
MemoryLimit = Annotated[str, typer.Option(help="Memory to stay within, such as 4GB.")]


@reported
def forest(
    embeddings: Embeddings,
    output: Annotated[Path, typer.Argument(help="The Parquet file to write: id_a, id_b, distance.")],
    *,
    max_distance: Annotated[
        float, typer.Option(help="Euclidean distance of unit vectors up to which pairs are found, in (0, 2).")
    ] = 0.5,
    column: Annotated[str, typer.Option(help="The column of the vectors.")] = "image_embedding",
    id_column: IdColumn = "sample_id",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that search; 1 is this one, with all cores.", min=1)] = 1,
    memory_limit: MemoryLimit = "4GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Find all near-duplicates, exactly.

    What is written is the minimum spanning forest of all pairs up to a distance. Interrupted, the same command goes on
    where it was.
    """
    from pipeline.compute.config import ComputeConfig
    from pipeline.neighbors.search import near_duplicate_forest

    del json_, debug
    new_output(output, overwrite=overwrite)
    compute = ComputeConfig(engine="inline" if workers == 1 else "processes", workers=workers)
    report = near_duplicate_forest(
        embeddings,
        output,
        max_distance=max_distance,
        column=column,
        id_column=id_column,
        device=device,
        memory_limit=memory_limit,
        compute=compute,
    )
    return {
        **dataclasses.asdict(report),
        "output": str(output),
        "summary": f"{output}: {report.edges:,} edges of {report.samples:,} images within {max_distance:g}, "
        f"{report.seconds:.1f} s",
    }


@reported
def leaks(
    a: Annotated[Path, typer.Argument(help="Embeddings of one set, such as test images.", exists=True)],
    b: Annotated[Path, typer.Argument(help="Embeddings of the other set, by the same model.", exists=True)],
    output: Annotated[Path, typer.Argument(help="The Parquet file to write: id_a, id_b, distance.")],
    *,
    max_distance: Annotated[
        float, typer.Option(help="Euclidean distance of unit vectors up to which pairs are found, in (0, 2).")
    ],
    column_a: Annotated[str, typer.Option(help="The column of the vectors of A.")] = "image_embedding",
    column_b: Annotated[str, typer.Option(help="The column of the vectors of B.")] = "image_embedding",
    id_column_a: Annotated[str, typer.Option(help="The column of the ids of A.")] = "sample_id",
    id_column_b: Annotated[str, typer.Option(help="The column of the ids of B.")] = "sample_id",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that search; 1 is this one, with all cores.", min=1)] = 1,
    memory_limit: MemoryLimit = "4GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Find all near pairs of two sets, exactly.

    Such as test images that are among the training images. All pairs up to a distance are written; interrupted, the
    same command goes on where it was.
    """
    from pipeline.compute.config import ComputeConfig
    from pipeline.neighbors.between import near_pairs_between

    del json_, debug
    new_output(output, overwrite=overwrite)
    report = near_pairs_between(
        a,
        b,
        output,
        max_distance=max_distance,
        column_a=column_a,
        column_b=column_b,
        id_column_a=id_column_a,
        id_column_b=id_column_b,
        device=device,
        memory_limit=memory_limit,
        compute=ComputeConfig(engine="inline" if workers == 1 else "processes", workers=workers),
    )
    return {
        **dataclasses.asdict(report),
        "output": str(output),
        "summary": f"{output}: {report.near:,} pairs within {max_distance:g} of {report.samples_a:,} and "
        f"{report.samples_b:,} images, {report.seconds:.1f} s",
    }


@reported
def balance(
    embeddings: Embeddings,
    forest: Annotated[Path, typer.Argument(help="What `clip-cid forest` has written for them.", exists=True)],
    output: Annotated[Path, typer.Argument(help="The folder to write: balance_groups and other tables.")],
    *,
    threshold: Annotated[
        float | None, typer.Option(help="Distance up to which images are near-duplicates; or give --target-removal.")
    ] = None,
    target_removal: Annotated[
        float | None, typer.Option(help="Share of the images to remove, for which the threshold is solved.")
    ] = None,
    max_distance_to_center: Annotated[
        float | None,
        typer.Option(
            help="Release members that are farther than this from the image that is kept; rule bounded cuts groups so."
        ),
    ] = None,
    rule: Annotated[
        Literal["connected_components", "bounded", "semdedup", "random"],
        typer.Option(help="Which image stands for which."),
    ] = "connected_components",
    blocklist: Annotated[
        list[Path] | None, typer.Option(help="A file of ids, URLs, hosts or hashes to leave out; may be given again.")
    ] = None,
    keep_by: Annotated[
        list[str] | None,
        typer.Option(help="A term of ORDER BY over the files' other columns: the first stays; may be given again."),
    ] = None,
    keep_per_group: Annotated[int, typer.Option(help="How many of a group stay.", min=1)] = 1,
    where: Annotated[
        str | None, typer.Option(help="A DuckDB expression over the files' other columns; others are left out.")
    ] = None,
    id_column: IdColumn = "sample_id",
    cells: Annotated[int, typer.Option(help="k-means cells of the rule semdedup.", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="Seed of what a rule draws.")] = 0,
    memory_limit: MemoryLimit = "2GB",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Keep one image of every group of near-duplicates.

    Groups are those at a threshold, or at the one that removes a share.
    """
    from pipeline.balance.semantic_balance import semantic_balance
    from pipeline.core.query import QueryConfig
    from pipeline.core.settings import parse_size

    del json_, debug
    limit = parse_size(memory_limit, what="--memory-limit")
    with written_whole(output, overwrite=overwrite) as folder:
        report = semantic_balance(
            embeddings,
            forest,
            folder,
            threshold=threshold,
            target_removal=target_removal,
            max_distance_to_center=max_distance_to_center,
            rule=rule,
            keep_by=keep_by or (),
            keep_per_group=keep_per_group,
            where=where,
            id_column=id_column,
            blocklist=blocklist or (),
            cells=cells,
            seed=seed,
            query_config=QueryConfig.model_validate({"memory_limit": limit}),
        )
    blocked = f", {report.blocked:,} blocked" if report.blocked else ""
    filtered = f", {report.filtered:,} filtered" if report.filtered else ""
    return {
        **dataclasses.asdict(report),
        "output": str(output),
        "summary": f"{output}: {report.kept:,} of {report.samples:,} images kept at {report.threshold:.4g}, "
        f"{report.removed:,} removed{blocked}{filtered}",
    }


@reported
def clusters(
    embeddings: Embeddings,
    output: Annotated[Path, typer.Argument(help="The folder to write: centroids, cluster_assignments.")],
    *,
    clusters: Annotated[int, typer.Option(help="Number of clusters.", min=1)],
    iterations: Annotated[int, typer.Option(help="Lloyd iterations.", min=1)] = 25,
    spherical: Annotated[bool, typer.Option(help="Scale centroids to unit length after each iteration.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the first centroids and of the training sample.")] = 0,
    train_samples: Annotated[
        int | None, typer.Option(help="Rows that k-means is fitted on; all if not given.", min=1)
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="A Parquet file whose ids say what to cluster.", exists=True),
    ] = None,
    id_column: IdColumn = "sample_id",
    overwrite: Overwrite = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Cluster embeddings by k-means.

    What is written are the centroids, and the nearest one of every image.
    """
    from pipeline.clusters.kmeans_clusters import cluster_embeddings

    del json_, debug
    with written_whole(output, overwrite=overwrite) as folder:
        report = cluster_embeddings(
            embeddings,
            folder,
            clusters=clusters,
            iterations=iterations,
            spherical=spherical,
            seed=seed,
            train_samples=train_samples,
            keep=keep,
            id_column=id_column,
        )
    return {
        **dataclasses.asdict(report),
        "output": str(output),
        "summary": f"{output}: {report.samples:,} images in {report.clusters:,} clusters, {report.empty_clusters:,} of "
        f"them empty, mean squared distance {report.inertia:.4g}",
    }


@reported
def import_(
    source: Annotated[Path, typer.Argument(help="What clip-retrieval or another tool has made.", exists=True)],
    root: Annotated[Path, typer.Argument(help="Where source_pairs and teacher_embeddings go.")],
    *,
    url_column: Annotated[str, typer.Option(help="Column of the URL.")] = "url",
    caption_column: Annotated[str, typer.Option(help="Column of the caption.")] = "caption",
    url_prefix: Annotated[str, typer.Option(help="Put before each URL; file:// for columns of paths.")] = "",
    image_column: Annotated[str, typer.Option(help="Column of the image embedding, in Parquet.")] = "image_embedding",
    text_column: Annotated[str, typer.Option(help="Column of the caption's embedding, in Parquet.")] = "text_embedding",
    teacher: Annotated[str, typer.Option(help="Name of the model, noted in the files.")] = "unknown",
    drop_bad: Annotated[
        bool,
        typer.Option("--drop-bad", help="Leave out, and count, rows whose vector is missing, zero or not finite."),
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> dict[str, Any]:
    """Bring embeddings made elsewhere into a root.

    What is imported already is not read again.
    """
    from pipeline.import_embeddings.stage import import_embeddings

    del json_, debug
    result = import_embeddings(
        source,
        root,
        url_column=url_column,
        caption_column=caption_column,
        url_prefix=url_prefix,
        image_column=image_column,
        text_column=text_column,
        teacher=teacher,
        drop_bad=drop_bad,
    )
    counts = ", ".join(f"{name} {value:,}" for name, value in result.stats.items())
    return {
        "rows": result.rows,
        **result.stats,
        "root": str(root),
        "summary": f"{root}: {result.rows:,} embeddings ({counts})",
    }
