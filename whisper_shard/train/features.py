"""Waveforms become log-mel spectrograms on the device, and SpecAugment hides parts of them.

A batch of waveforms crosses to the GPU, not spectrograms: six times fewer bytes. The numbers are those of Whisper's
own extractor.

Edges: Whisper sees every recording padded with zeros to 30 s, so behind a shorter window come zeros, never a
reflection of its last samples; a window of 30 s or more is reflected at its end, as Whisper's own extractor does.
The front is reflected always.

Source: log_mel_spectrogram in openai/whisper audio.py, https://github.com/openai/whisper/blob/main/whisper/audio.py
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.train.device import explain_broken_install, send
from whisper_shard.utterance import FRAMES_PER_SECOND, HOP_LENGTH, MAX_SECONDS, N_FFT, SAMPLE_RATE

MAX_SAMPLES = round(MAX_SECONDS * SAMPLE_RATE)
"""Samples of a full window: 480,000."""
MAX_FRAMES = MAX_SAMPLES // HOP_LENGTH
"""Log-mel frames of a full window: 3,000."""
INT16_SCALE = 1.0 / 32768.0
"""As in `stream.batch`."""
FLOOR_POWER = 1e-10
"""Least mel power before the logarithm. Source: openai/whisper audio.py."""
RANGE_LOG10 = 8.0
"""Everything more than 80 dB below a row's loudest value is raised to that. Source: openai/whisper audio.py."""


class LogMel(nn.Module):
    """Waveforms to Whisper's log-mel spectrograms; always computed in float32, outside autocast.

    Args:
        n_mels: Mel bins: 80, or 128 for large-v3 and turbo.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(n_mels), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Return log-mel spectrograms, (B, n_mels, S // HOP_LENGTH) float32.

        Args:
            waveforms: (B, S) in [-1, 1] as float, or int16 as in a shard; S > N_FFT // 2.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            spectrum = torch.stft(
                pad_edges(as_float(waveforms)), N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True
            )
            power = spectrum[..., :-1].abs().square()
            log_power = (self.filters @ power).clamp_(min=FLOOR_POWER).log10_()
            loudest = log_power.amax(dim=(1, 2), keepdim=True)
            return (torch.maximum(log_power, loudest - RANGE_LOG10) + 4.0) / 4.0


def as_float(waveforms: Tensor) -> Tensor:
    """Return waveforms as float32; int16 comes to [-1, 1]."""
    if waveforms.dtype == torch.int16:
        return waveforms.float() * INT16_SCALE
    return waveforms.float()


def pad_edges(waveforms: Tensor) -> Tensor:
    """Add half a window of samples on both sides: the front reflected, zeros behind (reflected behind 30 s)."""
    half = N_FFT // 2
    if waveforms.shape[-1] >= MAX_SAMPLES:
        return functional.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
    return functional.pad(functional.pad(waveforms[:, None], (half, 0), mode="reflect")[:, 0], (0, half))


def mel_filters(n_mels: int) -> Tensor:
    """Return Slaney's triangular mel filters, (n_mels, N_FFT // 2 + 1)."""
    with explain_broken_install():
        from torchaudio.functional import melscale_fbanks
    filters: Tensor = melscale_fbanks(
        n_freqs=N_FFT // 2 + 1,
        f_min=0.0,
        f_max=SAMPLE_RATE / 2,
        n_mels=n_mels,
        sample_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters.T.contiguous()


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
    """Hide bands of time and of frequency, in the real frames of each row only; the input stays as it is.

    What is hidden in a row depends on its seed and its number of frames alone: not on its neighbours, its place in the
    batch, the padding or the device.

    Args:
        log_mel: (B, M, T).
        num_frames: (B,) real frames of each row; what follows is padding and is left alone.
        seeds: One integer for each row.
        time_masks: Bands of time in each row.
        time_seconds: Longest band of time in seconds.
        time_share: Longest band of time as a share of the row's real frames, 0 to 1; the shorter limit counts.
        mel_masks: Bands of frequency in each row.
        mel_bins: Widest band of frequency in mel bins.
        fill: Value put there: the mean of the row's real frames, or its least value, that of silence.

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
    hidden = (in_time[:, None, :] | in_mel[:, :, None]) & real[:, None, :]
    return torch.where(hidden, _fill_value(log_mel, real, fill), log_mel)


def _draw_bands(seeds: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Return (B, count) numbers in [0, 1), each row from its own seed."""
    mask = (1 << 64) - 1
    rows = [np.random.Generator(np.random.Philox(key=seed & mask)).random(count, dtype=np.float32) for seed in seeds]
    return send(torch.from_numpy(np.stack(rows)), device)


def _bands(draws: Tensor, longest: Tensor, extent: Tensor, size: int) -> Tensor:
    """Return (B, size) bool: bands of uniform width up to ``longest`` at a uniform place within ``extent``."""
    width, place = draws[:, 0::2, None], draws[:, 1::2, None]
    width = torch.floor(width * (longest[:, :, None] + 1.0)).minimum(extent[:, :, None])
    start = torch.floor(place * (extent[:, :, None] - width + 1.0))
    position = torch.arange(size, device=draws.device)
    return ((position >= start) & (position < start + width)).any(dim=1)


def _fill_value(log_mel: Tensor, real: Tensor, fill: str) -> Tensor:
    if fill == "silence":
        return log_mel.amin(dim=(1, 2), keepdim=True)
    weights = real[:, None, :].to(log_mel.dtype)
    total = weights.sum(dim=(1, 2), keepdim=True).clamp_(min=1.0) * log_mel.shape[1]
    return (log_mel * weights).sum(dim=(1, 2), keepdim=True) / total
