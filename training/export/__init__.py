"""What a trained student becomes: a model card, a check, transformers, ONNX."""
