"""Rules: control."""
