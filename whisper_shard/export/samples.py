"""Recordings on which a model and its export are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import read_recording
from whisper_shard.audio.resample import resample
from whisper_shard.dataset.index import open_dataset
from whisper_shard.errors import AudioError, ConfigError
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.utterance import MAX_SECONDS, Waveform


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A recording to compare."""

    key: str
    """Its key in the dataset, or its file."""
    waveform: Waveform
    """At 16 kHz, 30 s at most."""
    reference: str | None
    """What was said, if a dataset says it."""
    language: str | None
    """BCP-47 tag, if a dataset says it."""


def read_samples(sources: Sequence[str], *, limit: int) -> list[Sample]:
    """Read a dataset, or recordings.

    Args:
        sources: One dataset, by its folder or URL, or files.
        limit: Utterances of a dataset at most, by a fixed shuffle; 0: all.

    Raises:
        DatasetError: The dataset cannot be read.
        AudioError: A file has no audio, or more than 30 s.
        ConfigError: There is nothing to compare.
    """
    is_dataset = len(sources) == 1 and ("://" in sources[0] or Path(sources[0]).is_dir())
    samples = list(_from_dataset(sources[0], limit) if is_dataset else map(_from_file, sources))
    if not samples:
        raise ConfigError(f"--check {' '.join(sources)}: holds no utterances; name a dataset or recordings")
    return samples


def _from_dataset(location: str, limit: int) -> Iterator[Sample]:
    for batch in open_evaluation(open_dataset(location), batch_size=1, limit=limit):
        yield Sample(
            key=batch.keys[0],
            waveform=batch.waveforms[0, : int(batch.num_samples[0])].numpy().copy(),
            reference=batch.texts[0],
            language=batch.languages[0],
        )


def _from_file(path: str) -> Sample:
    try:
        recording = read_recording(path, decoders=[make() for make in DECODERS.values()], max_seconds=MAX_SECONDS)
    except AudioError as error:
        raise AudioError(f"--check {path}: {error}", reason=error.reason) from error
    return Sample(key=path, waveform=resample(recording.waveform, recording.sample_rate), reference=None, language=None)
