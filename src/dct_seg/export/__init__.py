"""Export to ONNX and to ``torch.export`` archives."""
