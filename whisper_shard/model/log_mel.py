"""Waveforms become log-mel spectrograms on the device.

A batch of waveforms crosses to the GPU, not spectrograms: six times fewer bytes. The numbers are those of Whisper's
own feature extractor.

Edges: Whisper pads every recording with zeros to 30 s, so a shorter window is followed by zeros, never by a reflection
of its last samples; a window of 30 s or more is reflected at its end, as in Whisper's own extractor. The front is
always reflected.

Source: log_mel_spectrogram in openai/whisper audio.py, https://github.com/openai/whisper/blob/main/whisper/audio.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from whisper_shard.audio.samples import FULL_SCALE
from whisper_shard.model.device import explain_broken_install, full_precision
from whisper_shard.utterance import HOP_LENGTH, MAX_SAMPLES, N_FFT, SAMPLE_RATE

FLOOR_POWER = 1e-10
"""Least mel power before the logarithm. Source: openai/whisper audio.py."""
RANGE_LOG10 = 8.0
"""Values more than 80 dB below a row's maximum are raised to that level. Source: openai/whisper audio.py."""


class LogMel(nn.Module):
    """Waveforms to Whisper's log-mel spectrograms, in float32: outside autocast, and without TF32.

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

        A row's values do not depend on the other rows.

        Args:
            waveforms: (B, S) in [-1, 1] as float, or int16 as in a shard; S > N_FFT // 2.
        """
        # TF32 keeps 10 bits, too few for power that spans eight decades and then goes through a logarithm.
        with torch.autocast(waveforms.device.type, enabled=False), full_precision():
            log_power = self._log_power(pad_edges(as_float(waveforms)), num_dropped=1)
            return compress_range(log_power, log_power.amax(dim=(1, 2), keepdim=True))

    def log_power(self, padded: Tensor) -> Tensor:
        """Return the decimal logarithm of mel power, (B, n_mels, frames) float32, for frames that are whole.

        Args:
            padded: (B, S) float32; frame t is that of the samples from t * HOP_LENGTH on.
        """
        with torch.autocast(padded.device.type, enabled=False), full_precision():
            return self._log_power(padded, num_dropped=0)

    def _log_power(self, padded: Tensor, *, num_dropped: int) -> Tensor:
        spectrum = torch.stft(padded, N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True)
        power = spectrum[..., : spectrum.shape[-1] - num_dropped].abs().square()
        return (self.filters @ power).clamp_(min=FLOOR_POWER).log10_()


def compress_range(log_power: Tensor, loudest: Tensor) -> Tensor:
    """Return the values that Whisper's encoder takes.

    Args:
        log_power: Decimal logarithm of mel power.
        loudest: Its maximum over the whole recording; broadcast.
    """
    return (torch.maximum(log_power, loudest - RANGE_LOG10) + 4.0) / 4.0


def as_float(waveforms: Tensor) -> Tensor:
    """Return waveforms as float32; int16 is scaled to [-1, 1]."""
    if waveforms.dtype == torch.int16:
        return waveforms.float() * (1.0 / FULL_SCALE)
    return waveforms.float()


def pad_edges(waveforms: Tensor) -> Tensor:
    """Add half an FFT window on both sides: the front reflected, zeros at the end (reflected from 30 s on)."""
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
