"""What is on disk: bytes in, objects out. No torch here."""
