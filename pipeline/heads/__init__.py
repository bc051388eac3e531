"""Stage `scores`: small networks on the teacher's embeddings, such as predictors of aesthetics, as columns."""

from pipeline.heads.config import HeadConfig, Heads
from pipeline.heads.layers import Head, check_heads, read_heads
from pipeline.heads.stage import SCORES, score_images

__all__ = ["SCORES", "Head", "HeadConfig", "Heads", "check_heads", "read_heads", "score_images"]
