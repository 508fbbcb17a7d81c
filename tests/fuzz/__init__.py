"""Mutated files: whatever happens to a CT's bytes, it is refused by one line or read as it was."""
