"""Recordings become transcripts: found, read, transcribed side by side, written and resumed."""
