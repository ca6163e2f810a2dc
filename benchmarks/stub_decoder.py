"""A stub decoder, to measure everything but decoding: 10 ms of a constant for every file."""

from typing import BinaryIO

import numpy as np

from whisper_shard.audio.recording import Recording
from whisper_shard.errors import AudioError


class StubDecoder:
    """Keep the rows whose file contains KEEP, and reject the others."""

    def claims(self, _head: bytes, _suffix: str, /) -> bool:
        """Return True: it decodes every file."""
        return True

    def decode(self, file: BinaryIO, *, max_seconds: float) -> Recording:  # noqa: ARG002
        """Return 160 samples, or raise an error with a reason of its own, so that no other decoder is tried."""
        if not file.read().startswith(b"KEEP"):
            raise AudioError("stubbed", reason="stubbed")
        return Recording(waveform=np.full(160, 0.5, np.float32), sample_rate=16_000)
