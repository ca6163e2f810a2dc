"""Online, every step: batches become a log-mel, a loss, gradients, and a better Whisper."""
