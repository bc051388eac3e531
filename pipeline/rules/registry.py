"""The rules by the names they have in the config."""

from pipeline.rules.base import Rule
from pipeline.rules.connected_components import ConnectedComponents
from pipeline.rules.random_subset import RandomSubset
from pipeline.rules.semdedup import SemDeDup

RULES: dict[str, type[Rule]] = {
    "connected_components": ConnectedComponents,
    "semdedup": SemDeDup,
    "random": RandomSubset,
}
