"""Images taken out of a root for good, with all that was made of them."""

from pipeline.purge.purge import purge

__all__ = ["purge"]
