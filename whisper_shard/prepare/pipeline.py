"""One manifest row becomes an Utterance, or a Rejection with its reason. Pure but for reading the file."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from whisper_shard.audio.decoders import DECODERS, Decoder
from whisper_shard.audio.files import read_recording
from whisper_shard.config.plugins import build_steps
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import AudioError
from whisper_shard.prepare.filters import Filter, build_filters
from whisper_shard.prepare.text import TEXT_STYLES
from whisper_shard.prepare.waveform import prepare_waveform
from whisper_shard.utterance import ManifestRow, Rejection, Utterance

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_STEM = 60
"""Characters of the file's name that go into the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What happens to each row, ready to use."""

    clean: Callable[[str], str]
    """Transcript to text."""
    min_text_chars: int
    """Shorter texts are rejected before the audio is even opened."""
    decoders: tuple[Decoder, ...]
    """In the order in which they are asked."""
    max_recording_seconds: float
    """Longer recordings are not decoded."""
    trim_db: float
    """See PrepareConfig."""
    peak: float
    """See PrepareConfig."""
    filters: tuple[Filter, ...]
    """In order; the first reason counts."""


def build_pipeline(config: PrepareConfig) -> Pipeline:
    """Turn knobs into the objects that do the work.

    Raises:
        ConfigError: An unknown kind of filter or decoder, or a parameter it does not take.
    """
    own = build_steps(config.decoders, DECODERS, where="decoders")
    return Pipeline(
        clean=TEXT_STYLES[config.text_style],
        min_text_chars=config.min_text_chars,
        decoders=(*own, *(make() for make in DECODERS.values())),
        max_recording_seconds=config.max_recording_seconds,
        trim_db=config.trim_db,
        peak=config.peak,
        filters=build_filters(config),
    )


def prepare_row(row: ManifestRow, pipeline: Pipeline) -> Utterance | Rejection:
    """Clean the text, decode, resample, trim, level, filter.

    Raises:
        OSError: The machine failed (I/O error, too many open files): not the row's fault.
    """
    text = pipeline.clean(row.transcript)
    if len(text.strip()) < pipeline.min_text_chars:
        return reject(row, "text_too_short", f"{len(text.strip())} characters, need {pipeline.min_text_chars}")
    seconds = 0.0
    try:
        recording = read_recording(row.path, decoders=pipeline.decoders, max_seconds=pipeline.max_recording_seconds)
        seconds = len(recording.waveform) / recording.sample_rate
        waveform = prepare_waveform(recording, trim_db=pipeline.trim_db, peak=pipeline.peak)
    except AudioError as error:
        return reject(row, error.reason, str(error), seconds=seconds)
    except MemoryError:
        return reject(row, "decoder_out_of_memory", "needs more memory than --worker-memory-mb allows")
    utterance = Utterance(key=make_key(row), waveform=waveform, text=text, row=row, recording_seconds=seconds)
    for step in pipeline.filters:
        if (answer := step.reject(utterance)) is not None:
            code, _, detail = answer.partition(":")
            return reject(row, code, detail.strip(), seconds=utterance.seconds)
    return utterance


def reject(row: ManifestRow, reason: str, detail: str, *, seconds: float = 0.0) -> Rejection:
    """Return the Rejection of a row."""
    return Rejection(row=row.row, source=row.source, reason=reason, detail=detail, seconds=seconds)


def make_key(row: ManifestRow) -> str:
    """Return a row's name in the dataset: ``000000012-some_file_name-9f86d081``.

    Unique by its row number; the digest tells two corpora apart whose rows have the same number and file name.
    """
    name = row.source.rpartition("/")[2]
    dot = name.rfind(".")
    stem = _UNSAFE.sub("_", name[:dot] if 0 < dot < len(name) - 1 else name)[:MAX_STEM] or "_"
    words = f"{row.row}\n{row.source}\n{row.transcript}".encode(errors="surrogatepass")
    return f"{row.row:09d}-{stem}-{blake2b(words, digest_size=4).hexdigest()}"
