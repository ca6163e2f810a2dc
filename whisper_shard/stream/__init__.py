"""Online, every step: (index, seed, epoch, step) -> batches of waveforms. Read plan.py first, then loader.py."""
