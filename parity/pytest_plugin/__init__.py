"""The pytest plugin behind its light door, `isomorph.parity.plugin`: imported when a test uses it, never before."""
