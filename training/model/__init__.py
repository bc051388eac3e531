"""The student, and its first weights."""

from typing import TYPE_CHECKING

from training.lazy import lazily

if TYPE_CHECKING:
    from training.model.student import BuiltStudent, Student, build_student

__all__ = ["BuiltStudent", "Student", "build_student"]

__getattr__ = lazily(
    __name__,
    {
        "BuiltStudent": "student",
        "Student": "student",
        "build_student": "student",
    },
)
