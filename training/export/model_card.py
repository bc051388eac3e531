"""The model card of an export: what it was trained on, how, and what was measured while it was."""

import json
from typing import Any

from training.job.training_job import TrainingJob

CARD_FILE = "README.md"

_HEAD = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags:
- clip
- distillation
---
# {name}

A small CLIP, trained with {terms}. It loads with plain open_clip:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:path/to/this/folder")
tokenizer = open_clip.get_tokenizer("local-dir:path/to/this/folder")
```

`probe.safetensors` holds a few inputs and the embeddings that the trained module gave them.
"""


def model_card(job: TrainingJob, *, samples: int, rows: list[dict[str, Any]], resumed_from: int) -> str:
    """Markdown. ``samples``: of the training set. ``rows``: of metrics; the last one is quoted."""
    student, last = job.student, rows[-1]
    terms = [name for name in last if name.split("_")[0] in ("contrastive", "cluster", "instance")]
    seen = student.steps * student.batch_size
    data = {
        "training samples": f"{samples:,}",
        "samples seen": f"{seen:,} ({seen / samples:.1f} epochs)",
        "digest of the training shards": f"`{job.inputs or 'not given'}`",
        "width of the teacher's embeddings": job.teacher_dim or "no teacher",
        "fingerprint of the run": f"`{job.fingerprint()}`",
        "resumed from step": resumed_from or "not resumed",
    }
    return "\n".join(
        [
            _HEAD.format(name=job.name, terms=", ".join(f"`{term}`" for term in terms)),
            "## Data\n",
            *_table("", "", data),
            "\n## Measured at the last step\n",
            *_table("metric", "value", {name: f"{value:.6g}" for name, value in last.items()}),
            "\nAccuracies are in the table `evaluation` beside the data it was trained on; none is claimed here.",
            "\n## Settings\n",
            f"```json\n{json.dumps(student.model_dump(mode='json'), indent=1)}\n```\n",
        ]
    )


def _table(left: str, right: str, values: dict[str, Any]) -> list[str]:
    return [f"| {left} | {right} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in values.items())]
