"""Rules: reduce."""
