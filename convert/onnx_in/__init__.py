"""The way back, second half: an ONNX file becomes a trainable torch module. Not built yet."""
