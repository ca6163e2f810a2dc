"""Lengths of encoder windows, and waveforms cut or padded to them."""

from typing import Any

from torch import Tensor
from torch.nn import functional

from whisper_shard.utterance import HOP_LENGTH, MAX_SAMPLES, SAMPLE_RATE

MAX_FRAMES = MAX_SAMPLES // HOP_LENGTH
"""Log-mel frames of Whisper's own window: 3,000."""
POSITION_SAMPLES = 2 * HOP_LENGTH
"""Samples an encoder position stands for: windows are multiples of it."""
SHORT_MARGIN_SECONDS = 1.0
"""Silence after the longest utterance of a short window."""
SHORT_FLOOR_SECONDS = 2.0
"""Shortest window."""


def longest_window(model: Any) -> int:
    """Return the samples of a model's own window: 480,000 for every published Whisper.

    Args:
        model: WhisperForConditionalGeneration.
    """
    num_positions: int = model.config.max_source_positions
    return num_positions * POSITION_SAMPLES


def short_window(num_samples: int) -> int:
    """Return the samples of the shortest window for audio of this length."""
    wanted = max(num_samples + round(SHORT_MARGIN_SECONDS * SAMPLE_RATE), round(SHORT_FLOOR_SECONDS * SAMPLE_RATE))
    return -(-wanted // POSITION_SAMPLES) * POSITION_SAMPLES


def fit_window(waveforms: Tensor, num_samples: int) -> Tensor:
    """Cut waveforms, or pad them with zeros, to a window, (B, num_samples); audio is padded, never its spectrogram."""
    missing = num_samples - waveforms.shape[1]
    return functional.pad(waveforms, (0, missing)) if missing > 0 else waveforms[:, :num_samples]
