"""Rules: resize."""
