"""Stage `teacher`: whatever names a CLIP in, a hashed open_clip folder out."""

from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.stage import resolve_teacher

__all__ = ["TeacherConfig", "resolve_teacher"]
