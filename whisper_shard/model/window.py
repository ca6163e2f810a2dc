"""Lengths of encoder windows, and waveforms cut or padded to them."""

from torch import Tensor
from torch.nn import functional

from whisper_shard.utterance import HOP_LENGTH, SAMPLE_RATE

SHORT_MARGIN_SECONDS = 1.0
"""Silence behind the longest utterance of a short window."""
SHORT_FLOOR_SECONDS = 2.0
"""Shortest window."""
POSITION_SAMPLES = 2 * HOP_LENGTH
"""Samples an encoder position stands for: windows are multiples of it."""


def short_window(
    num_samples: int, *, margin_seconds: float = SHORT_MARGIN_SECONDS, floor_seconds: float = SHORT_FLOOR_SECONDS
) -> int:
    """Return the samples of the shortest window for audio of this length."""
    wanted = max(num_samples + round(margin_seconds * SAMPLE_RATE), round(floor_seconds * SAMPLE_RATE))
    return -(-wanted // POSITION_SAMPLES) * POSITION_SAMPLES


def fit_window(waveforms: Tensor, num_samples: int) -> Tensor:
    """Cut or pad with zeros to a window of so many samples, (B, num_samples)."""
    missing = num_samples - waveforms.shape[1]
    return functional.pad(waveforms, (0, missing)) if missing > 0 else waveforms[:, :num_samples]
