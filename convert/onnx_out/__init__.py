"""The way back, first half: Keras to ONNX with every variable kept and named (docs/way_back.md)."""
