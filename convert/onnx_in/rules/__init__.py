"""One file per family of ONNX ops. See registry.py for what a rule is."""
