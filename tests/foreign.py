"""Tars as others write them, and indexes of them."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from tests.making import make_waveform
from whisper_shard.config.index import IndexConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.tars.run import index_tars

QUICK = {"jobs": 1, "min_seconds": 0.1, "min_text_chars": 1, "max_reject_fraction": 1.0}
"""Settings for short utterances."""


def encode(seconds: float, suffix: str = "wav", *, rate: int = 16_000, seed: int = 0) -> bytes:
    """A made waveform as a file."""
    waveform = make_waveform(seconds, seed=seed)
    waveform = soxr.resample(waveform, 16_000, rate) if rate != 16_000 else waveform
    file = io.BytesIO()
    if suffix == "npy":
        np.save(file, waveform)
    elif suffix == "m4a":
        write_m4a(file, waveform, rate)
    else:
        kinds = {"opus": {"format": "OGG", "subtype": "OPUS"}}
        soundfile.write(file, waveform, rate, **kinds.get(suffix, {"format": suffix.upper()}))
    return file.getvalue()


def write_m4a(file: io.BytesIO, waveform: Any, rate: int) -> None:
    import av

    with av.open(file, mode="w", format="ipod") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_tar(
    path: Path, members: Iterable[tuple[str, bytes]] | Mapping[str, bytes], *, format: int = tarfile.USTAR_FORMAT
) -> Path:
    """Write a tar with the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, body in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def write_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_index(tars: Path | str, out: Path, **settings: Any) -> list[Any]:
    """Index tars; return the events."""
    return list(index_tars(str(tars), out, IndexConfig(**{**QUICK, **settings})))


def make_index(tars: Path | str, out: Path, **settings: Any) -> Dataset:
    """Index tars and open the index."""
    run_index(tars, out, **settings)
    return open_dataset(out)
