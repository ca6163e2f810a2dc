"""Whisper itself: features, labels, forward passes, loss, weights. Knows neither datasets nor the loader."""
