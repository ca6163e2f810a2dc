"""The run folder: settings, state, checkpoints, metrics."""
