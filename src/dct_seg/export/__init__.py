"""Export of networks to ONNX and to ``torch.export`` archives."""
