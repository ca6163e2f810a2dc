"""The command `bench`: how fast the loader is, and what limits it."""
