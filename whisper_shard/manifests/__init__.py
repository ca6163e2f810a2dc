"""Lists of recordings and transcripts become ManifestRows, streamed."""
