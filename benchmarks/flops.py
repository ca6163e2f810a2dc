"""Floating-point operations of one training step of Whisper, counted for real audio only.

Source: counts of the matrix products of arXiv:2212.04356, two operations for a multiplication and an addition; the
backward pass costs twice the forward pass (arXiv:2001.08361, section 2.1).
"""

from transformers import WhisperConfig

from whisper_shard.utterance import HOP_LENGTH, SAMPLE_RATE

POSITIONS_PER_SECOND = SAMPLE_RATE / HOP_LENGTH / 2


def count_training_flops(config: WhisperConfig, *, seconds: float, tokens: float) -> float:
    """Return the operations of forward and backward pass for one utterance.

    Args:
        config: Sizes of the model.
        seconds: Audio in the utterance; with 30 the padding of standard tools is counted as work.
        tokens: Tokens the decoder reads.
    """
    width, positions = config.d_model, seconds * POSITIONS_PER_SECOND
    convolutions = 2 * 2 * positions * 3 * config.num_mel_bins * width + 2 * positions * 3 * width * width
    encoder = 2 * positions * (4 * width * width + 2 * width * config.encoder_ffn_dim) + 4 * positions**2 * width
    cross_keys = 2 * positions * 2 * width * width
    decoder = 2 * tokens * (6 * width * width + 2 * width * config.decoder_ffn_dim)
    attention = 4 * tokens * (tokens + positions) * width
    head = 2 * tokens * width * config.vocab_size
    forward = convolutions + config.encoder_layers * encoder
    forward += config.decoder_layers * (cross_keys + decoder + attention) + head
    return float(3 * forward)
