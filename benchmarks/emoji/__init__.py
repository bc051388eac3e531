"""The whole method on real images: emoji as four vendors draw them, measured on two styles that are never trained on.

``python -m benchmarks.emoji`` does everything; see ``docs/results.md``.
"""
