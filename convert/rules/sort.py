"""Rules: sort."""
