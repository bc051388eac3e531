"""The rules by the names they have in the config."""

from pipeline.balance.rules.base import Rule
from pipeline.balance.rules.bounded import Bounded
from pipeline.balance.rules.connected_components import ConnectedComponents
from pipeline.balance.rules.random_subset import RandomSubset
from pipeline.balance.rules.semdedup import SemDeDup

RULES: dict[str, type[Rule]] = {
    "connected_components": ConnectedComponents,
    "bounded": Bounded,
    "semdedup": SemDeDup,
    "random": RandomSubset,
}
