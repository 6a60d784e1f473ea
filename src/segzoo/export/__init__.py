"""Export of models to ONNX and ``torch.export``."""
