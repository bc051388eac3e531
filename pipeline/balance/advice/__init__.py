"""Which threshold: what each would do to a data set, and one that is proposed."""

from pipeline.balance.advice.advise import Advice, advise_root, advise_threshold
from pipeline.balance.advice.rows import BorderPair, ThresholdRow

__all__ = ["Advice", "BorderPair", "ThresholdRow", "advise_root", "advise_threshold"]
