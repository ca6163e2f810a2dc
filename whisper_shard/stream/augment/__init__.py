"""Augmentations of training audio."""
