"""A URL in, a bounded body from a public address out."""

from pipeline.web.opener import GuardedOpener
from pipeline.web.outcomes import SampleError
from pipeline.web.rules import Guard

__all__ = ["Guard", "GuardedOpener", "SampleError"]
