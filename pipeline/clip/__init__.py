"""open_clip models, and how images reach them."""

from pipeline.clip.model import LoadedClip, load_clip, write_clip_folder
from pipeline.clip.preprocessing import Preprocessing
from pipeline.clip.views import View

__all__ = ["LoadedClip", "Preprocessing", "View", "load_clip", "write_clip_folder"]
