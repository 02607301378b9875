"""Rules: create."""
