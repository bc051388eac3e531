"""The model card."""

from training.export.model_card import model_card
from training.job.training_job import TrainingJob


def test_a_card_says_what_and_how(job: TrainingJob) -> None:
    rows = [{"step": 12, "loss": 1.25, "contrastive": 0.5, "cluster_label": 0.75, "learning_rate": 1e-3}]
    card = model_card(job.model_copy(update={"inputs": "abc123"}), samples=96, rows=rows, resumed_from=4)
    assert "trained with `contrastive`, `cluster_label`." in card
    assert "| samples seen | 192 (2.0 epochs) |" in card and "`abc123`" in card and job.student.model in card
    assert "| loss | 1.25 |" in card and "| resumed from step | 4 |" in card
