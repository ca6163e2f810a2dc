"""Tars that others wrote get an index: found, read once, each utterance measured, nothing rewritten."""
