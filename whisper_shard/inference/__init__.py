"""Encoder and decoder for inference, and batched decoding."""
