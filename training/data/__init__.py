"""Training samples: exactly resumable batches, read from tars."""
