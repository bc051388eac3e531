import re
from typing import Any

import pytest

from training.config import StudentConfig
from training.job.contradictions import contradictions

NO_LOSS = {"contrastive": {"weight": 0}, "cluster": {"weight": 0}, "instance": {"weight": 0}}


@pytest.mark.parametrize(
    ("values", "ranks", "message"),
    [
        ({"batch_size": 30}, 4, "batch_size 30 is not a multiple of ranks x micro_batches, 4 x 1"),
        ({"batch_size": 32, "micro_batches": 3}, 2, "32 is not a multiple of ranks x micro_batches, 2 x 3"),
        ({"batch_size": 32, "micro_batches": 3}, None, "32 is not a multiple of ranks x micro_batches, any x 3"),
        ({"batch_size": 8, "micro_batches": 2}, 4, "in 8 parts .* leaves one sample in each"),
        ({"precision": "bf16", "zero_stage": 0}, 1, "precision bf16 needs ZeRO stage 1, 2 or 3"),
        ({"precision": "fp16"}, 1, "BatchNorm, whose statistics need float32"),
        ({"average_decay": 0.9, "zero_stage": 3}, 1, "average_decay needs whole weights"),
        ({"losses": NO_LOSS}, 1, "every loss term has weight 0"),
        ({"losses": {"cluster": {"learnable": True, "storage": "fp16"}}}, 1, "learnable needs float32"),
        ({"losses": {"cluster": {"learnable": True}}}, 2, "learnable centroids are divided over the ranks"),
        ({"losses": {"cluster": {"positives": 8}}}, 1, r"positives 8 are labels .*cluster\.label_weight is 0"),
        ({"losses": {"cluster": {"positives": 9, "label_weight": 1}}}, 1, "9 has to be less than the number .*, 9"),
    ],
)
def test_each_contradiction_has_a_line_with_its_key(values: dict[str, Any], ranks: int | None, message: str) -> None:
    lines = list(contradictions(StudentConfig.model_validate(values), ranks=ranks, batch_norm=True, clusters=9))
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def test_what_fits_has_none() -> None:
    assert not list(contradictions(StudentConfig(), ranks=None))
    assert not list(contradictions(StudentConfig(batch_size=8, micro_batches=2), ranks=4, batch_norm=False))
    assert not list(contradictions(StudentConfig(batch_size=16, micro_batches=2), ranks=4, batch_norm=True))
