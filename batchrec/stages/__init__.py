"""The stages of the line: pure functions from arrays to arrays."""
