"""Rules: pool."""
