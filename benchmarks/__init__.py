"""Benchmarks: scripts that measure what the docs say."""

from pipeline.core.openmp import limit_spinning

# As in a job, whichever of them is imported and however.
limit_spinning()
