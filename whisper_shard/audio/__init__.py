"""Audio files become waveforms, waveforms become members of a shard."""
