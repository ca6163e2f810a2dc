"""Transcripts: normalization by name, languages, tokens. Preparation and scoring share it; it never imports torch."""
