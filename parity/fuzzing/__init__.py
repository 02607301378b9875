"""Random well-typed torch modules, composed from a grammar."""
