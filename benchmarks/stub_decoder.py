"""A decoder that decodes nothing, to measure everything but decoding: 10 ms of a constant tone for every file."""

from typing import BinaryIO

import numpy as np

from whisper_shard.audio.recording import Recording
from whisper_shard.errors import AudioError


class StubDecoder:
    """Keeps the share of rows whose file says KEEP, rejects the others."""

    def claims(self, _head: bytes, _suffix: str, /) -> bool:
        """Claim everything."""
        return True

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:  # noqa: ARG002
        """Return 160 samples, or refuse with a reason of its own, so that no other decoder is asked."""
        if not file.read().startswith(b"KEEP"):
            raise AudioError("stubbed", reason="stubbed")
        return Recording(waveform=np.full(160, 0.5, np.float32), sample_rate=16_000)
