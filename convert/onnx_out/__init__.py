"""The way back, first half: Keras to ONNX with every variable kept and named. Not built yet."""
