"""Rules: index."""
