"""The ONNX project's own backend tests, run strictly over the importer: `python -m tests.quality.onnx_suite`."""
