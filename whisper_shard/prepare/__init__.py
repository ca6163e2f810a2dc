"""Offline, once: a manifest and its recordings become a dataset. No torch here."""
