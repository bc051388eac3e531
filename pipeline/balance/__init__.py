"""Stage `balance`: the forest in, which images are kept out."""

from pipeline.balance.advice import Advice, BorderPair, ThresholdRow, advise_root, advise_threshold
from pipeline.balance.config import BalanceConfig
from pipeline.balance.report import BalanceReport
from pipeline.balance.semantic_balance import semantic_balance, threshold_sweep
from pipeline.balance.stage import balance_pairs

__all__ = [
    "Advice",
    "BalanceConfig",
    "BalanceReport",
    "BorderPair",
    "ThresholdRow",
    "advise_root",
    "advise_threshold",
    "balance_pairs",
    "semantic_balance",
    "threshold_sweep",
]
