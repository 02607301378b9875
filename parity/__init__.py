"""The verdict: are two models the same model? May import isomorph.convert, never the reverse."""

if __name__ != "isomorph.parity":  # a second copy would have its own registries and its own classes
    raise ImportError(
        f"the folder parity/ of isomorph was imported as {__name__!r}: import it as 'isomorph.parity' "
        "(install the project with 'pip install -e .' first), or rename what you meant to import"
    )
