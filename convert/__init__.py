"""The converters between torch, Keras and ONNX, and the two-way map of the weights. Never imports isomorph.parity."""

if __name__ != "isomorph.convert":  # a second copy would have its own registries and its own classes
    raise ImportError(
        f"the folder convert/ of isomorph was imported as {__name__!r}: import it as 'isomorph.convert' "
        "(install the project with 'pip install -e .' first), or rename what you meant to import"
    )
