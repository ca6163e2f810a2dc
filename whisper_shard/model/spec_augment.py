"""SpecAugment: mask bands of time and of frequency in a log-mel spectrogram.

Source: arXiv:1904.08779.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from whisper_shard.model.device import send
from whisper_shard.utterance import FRAMES_PER_SECOND


def spec_augment(
    log_mel: Tensor,
    num_frames: Tensor,
    *,
    seeds: Sequence[int],
    time_masks: int = 2,
    time_seconds: float = 0.5,
    time_share: float = 0.1,
    mel_masks: int = 2,
    mel_bins: int = 20,
    fill: Literal["mean", "silence"] = "mean",
) -> Tensor:
    """Mask bands of time and of frequency in the real frames of each row; the input is not changed.

    The masks of a row follow from its seed and its number of frames alone: not from the other rows, its position in
    the batch, the padding or the device.

    Args:
        log_mel: (B, M, T).
        num_frames: (B,) real frames of each row; padding after them is not masked.
        seeds: One integer for each row.
        time_masks: Number of bands of time in each row.
        time_seconds: Longest band of time in seconds.
        time_share: Longest band of time as a share of the row's real frames, 0 to 1; the shorter limit applies.
        mel_masks: Number of bands of frequency in each row.
        mel_bins: Widest band of frequency in mel bins.
        fill: Value of masked frames: the mean of the row's real frames, or its minimum, that of silence.

    Source: SpecAugment, arXiv:1904.08779; time_share is the limit p of its section 2.
    """
    num_rows, num_mels, max_frames = log_mel.shape
    draws = _draw_bands(seeds, 2 * (time_masks + mel_masks), log_mel.device)
    frames = num_frames.to(log_mel.device, torch.float32)[:, None]
    longest = torch.clamp(frames * time_share, max=time_seconds * FRAMES_PER_SECOND)
    widest = torch.full((num_rows, 1), float(mel_bins), device=log_mel.device)
    mel_size = torch.full((num_rows, 1), float(num_mels), device=log_mel.device)
    in_time = _bands(draws[:, : 2 * time_masks], longest, frames, max_frames)
    in_mel = _bands(draws[:, 2 * time_masks :], widest, mel_size, num_mels)
    real = torch.arange(max_frames, device=log_mel.device)[None] < frames
    masked = (in_time[:, None, :] | in_mel[:, :, None]) & real[:, None, :]
    return torch.where(masked, _fill_value(log_mel, real, fill), log_mel)


def _draw_bands(seeds: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Return (B, count) uniform numbers in [0, 1), each row from its own seed."""
    mask = (1 << 64) - 1
    rows = [np.random.Generator(np.random.Philox(key=seed & mask)).random(count, dtype=np.float32) for seed in seeds]
    return send(torch.from_numpy(np.stack(rows)), device)


def _bands(draws: Tensor, longest: Tensor, extent: Tensor, size: int) -> Tensor:
    """Return (B, size) bool: bands of uniform width up to ``longest``, at a uniform position within ``extent``."""
    width, offset = draws[:, 0::2, None], draws[:, 1::2, None]
    width = torch.floor(width * (longest[:, :, None] + 1.0)).minimum(extent[:, :, None])
    start = torch.floor(offset * (extent[:, :, None] - width + 1.0))
    position = torch.arange(size, device=draws.device)
    return ((position >= start) & (position < start + width)).any(dim=1)


def _fill_value(log_mel: Tensor, real: Tensor, fill: str) -> Tensor:
    if fill == "silence":
        return log_mel.amin(dim=(1, 2), keepdim=True)
    weights = real[:, None, :].to(log_mel.dtype)
    total = weights.sum(dim=(1, 2), keepdim=True).clamp_(min=1.0) * log_mel.shape[1]
    return (log_mel * weights).sum(dim=(1, 2), keepdim=True) / total
