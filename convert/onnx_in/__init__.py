"""The way back, second half: an ONNX file becomes a trainable torch module (docs/way_back.md)."""
