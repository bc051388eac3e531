"""DeepSpeed behind a small interface: its state, micro-batches, averages, schedule."""
