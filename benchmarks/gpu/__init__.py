"""Everything that this project says of GPUs, measured by one command: ``python -m benchmarks.gpu``.

A GPU is often at hand for minutes only. So parts run in the order of their worth, each in a process of its own with a
time limit of its own; one that fails or hangs costs only itself, and rows are on disk as soon as they are measured.
"""
