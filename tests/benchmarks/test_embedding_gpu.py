"""The script for GPUs runs from end to end, on a CPU with a model cut down to one layer."""

from benchmarks.embedding_gpu import measure


def test_every_figure_is_there_and_the_counted_work_is_the_model_s() -> None:
    if_small = {"model": "ViT-S-32-alt", "layers": 1, "samples": 24, "batch_sizes": (8,), "threads": 2, "pixels": 64}
    (row,) = measure(device="cpu", precisions=("bf16",), compiled=(False,), **if_small)
    assert (row["precision"], row["batch_size"], row["compile"]) == ("bf16", 8, False)
    assert row["images_per_second"] > 0 and 0 < row["share_of_peak"] < 1 and 0 <= row["loader_stall"] <= 1


def test_without_a_gpu_there_is_no_row() -> None:
    import torch

    if not torch.cuda.is_available():
        assert measure() == []
