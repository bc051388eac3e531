"""Stage ``evaluation_leaks``: training images that are near to images of test splits, by the teacher's embeddings.

Test splits alone are looked at. What a model is asked is there; the train split of an evaluation set only fits the
linear probe, whose answers it does not hold, and every model is given it anyway.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.balance.config import DecontaminateConfig
from pipeline.compute.config import ComputeConfig
from pipeline.core import parquet, schema
from pipeline.core.errors import ConfigError
from pipeline.core.files import move_into_place
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.neighbors import NeighborsConfig, near_pairs_between
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from training.evaluation.collection import evaluation_sets
from training.evaluation.datasets import TEST, EvaluationSet, read_evaluation_set
from training.evaluation.stage import dataset_identity, require_datasets

LEAKS = "evaluation_leaks"
_FILE = f"{LEAKS}/leaks.parquet"


def find_leaks(
    root: Path,
    config: DecontaminateConfig,
    *,
    datasets: list[Path],
    embeddings: EmbeddingsConfig,
    neighbors: NeighborsConfig,
    compute: ComputeConfig,
) -> StageResult:
    """Stage ``evaluation_leaks``: all pairs of a test image and a training image up to the threshold; none, and
    complete, where no data set is named.

    Args:
        root: a root with teacher embeddings.
        config: the threshold.
        datasets: folders of the evaluation sets that ``config.datasets`` names.
        embeddings: how the training images were embedded.
        neighbors: where and within which memory pairs are searched; ``max_distance`` is not read.
        compute: on which processes or machines.

    Returns:
        The result; its figures count images on both sides.

    Raises:
        ConfigError: for a data set that is not there, has no test images or the name of another.
        pipeline.core.errors.ShardError: for a damaged data set or an image that cannot be decoded.
    """
    if not datasets:
        stage = Stage(root, LEAKS, version=1, config=None, inputs={LEAKS: None})
        return stage.each(lambda output: _write(output, [], []))
    require_datasets(datasets, "balance.decontaminate.datasets")
    datasets, _ = evaluation_sets(datasets, measured=False)
    # What is found does not depend on the order in which they are named.
    datasets = sorted(datasets, key=lambda path: path.resolve().name)
    names = [path.resolve().name for path in datasets]
    if len(set(names)) < len(names):
        raise ConfigError(f"balance.decontaminate.datasets: expected data sets of different names, got {names}")
    made_of = [read_result(root, name).digest for name in ("teacher", "teacher_embeddings")]
    content = {"threshold": config.threshold, "datasets": [dataset_identity(path) for path in datasets]}
    stage = Stage(root, LEAKS, version=1, config=content, inputs={LEAKS: made_of})

    def write(output: Output) -> None:
        # Not in the temporary folder of the output, which a new run clears.
        work = root / f".{LEAKS}"
        sets = [read_evaluation_set(folder) for folder in datasets]
        near = work / "near.parquet"
        near_pairs_between(
            _embedded(root, sets, embeddings, work / f"{stage.fingerprint}.parquet"),
            read_result(root, "teacher_embeddings").parquet("teacher_embeddings"),
            near,
            max_distance=config.threshold,
            id_column_a="number",
            id_column_b="image_id",
            prefix=neighbors.prefix,
            precision=neighbors.precision,
            device=neighbors.device,
            tile_rows=neighbors.tile_rows,
            memory_limit=neighbors.memory_limit,
            compute=compute,
            work=work / "search",
        )
        with parquet.reading(near):
            _write(output, sets, parquet.open_file(near, pre_buffer=False).iter_batches())
        output.stats |= {"threshold": config.threshold, "datasets": names}
        shutil.rmtree(work)

    return stage.each(write)


def read_test_images(datasets: Iterable[Path], wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Bytes of the images that rows of ``evaluation_leaks`` name by data set and key, those of them that are there."""
    names, found = set(wanted), {}
    for folder in evaluation_sets(list(datasets), measured=False)[0]:
        dataset = read_evaluation_set(folder)
        for image in dataset.test.images:
            if (dataset.name, image.name) in names:
                found[dataset.name, image.name] = image.read()
    return found


def _embedded(root: Path, sets: list[EvaluationSet], config: EmbeddingsConfig, path: Path) -> Path:
    """Embeddings of all test images, if an earlier run that was interrupted has not left them."""
    if not path.exists():
        from training.decontamination.embedded import write_embeddings

        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        temporary = path.with_suffix(".tmp")
        write_embeddings(root, [dataset.test for dataset in sets], config, temporary)
        move_into_place({path: temporary})
    return path


def _write(output: Output, sets: list[EvaluationSet], near: Iterable[Any]) -> None:
    """The table, of batches of pairs of a test image's number and an image_id, ordered by the number."""
    images = [(dataset.name, image.name) for dataset in sets for image in dataset.test.images]
    names, keys = (pa.array([image[place] for image in images], pa.string()) for place in (0, 1))
    leaked, training = set[int](), np.empty(0, np.int64)
    with parquet.writer(output.path(_FILE), schema.EVALUATION_LEAKS, compression="zstd") as file:
        for batch in near:
            number, image_id = batch.column("id_a"), batch.column("id_b")
            split = pa.repeat(TEST, len(batch))
            columns = [names.take(number), split, keys.take(number), image_id, batch.column("distance")]
            file.write_batch(pa.record_batch(columns, schema=schema.EVALUATION_LEAKS))
            leaked.update(number.unique().to_pylist())
            training = np.union1d(training, image_id.to_numpy())
            output.rows += len(batch)
    output.stats = {
        "evaluation_images": len(images),
        "leaked_evaluation_images": len(leaked),
        "leaked_images": len(training),
    }
