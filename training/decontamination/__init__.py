"""Stage `evaluation_leaks`: which training images are copies of images that models are measured on."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.decontamination.stage import find_leaks

__all__ = ["find_leaks"]

__getattr__ = lazily(__name__, {"find_leaks": "stage"})
