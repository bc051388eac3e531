"""What the demo's images show: a shape of one color on a background, 12 x 10 x 6 = 720 concepts."""

import dataclasses

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "crescent",
    "ring",
    "arrow",
    "bolt",
    "flower",
    "house",
)

COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white")

BACKGROUNDS = ("plain", "striped", "dotted", "checked", "wavy", "brick")


@dataclasses.dataclass(frozen=True)
class Concept:
    """One class of the corpus."""

    shape: str
    color: str
    background: str

    @property
    def class_id(self) -> int:
        """Position in :data:`CONCEPTS`, and the class of the evaluation set."""
        place = SHAPES.index(self.shape) * len(COLORS) + COLORS.index(self.color)
        return place * len(BACKGROUNDS) + BACKGROUNDS.index(self.background)

    @property
    def name(self) -> str:
        """The class name that goes into prompt templates, without an article."""
        return f"{self.color} {self.shape} on a {self.background} background"


CONCEPTS = tuple(
    Concept(shape, color, background) for shape in SHAPES for color in COLORS for background in BACKGROUNDS
)
