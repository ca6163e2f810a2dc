"""A synthesized corpus and a small random Whisper, so that everything can be tried offline."""
