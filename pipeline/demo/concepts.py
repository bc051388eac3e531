"""What the demo's images show: a shape of one colour on a background, 12 x 10 x 6 = 720 concepts."""

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

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white")

BACKGROUNDS = ("plain", "striped", "dotted", "checked", "wavy", "brick")


@dataclasses.dataclass(frozen=True)
class Concept:
    """One class of the corpus."""

    shape: str
    colour: str
    background: str

    @property
    def class_id(self) -> int:
        """Position in :data:`CONCEPTS`, and the class of the evaluation set."""
        place = SHAPES.index(self.shape) * len(COLOURS) + COLOURS.index(self.colour)
        return place * len(BACKGROUNDS) + BACKGROUNDS.index(self.background)

    @property
    def name(self) -> str:
        """The class name that goes into prompt templates, without an article."""
        return f"{self.colour} {self.shape} on a {self.background} background"


CONCEPTS = tuple(
    Concept(shape, colour, background) for shape in SHAPES for colour in COLOURS for background in BACKGROUNDS
)
