"""One manifest row becomes an Utterance or a Rejection; nothing but the recording is read, and nothing is written."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import BinaryIO

from whisper_shard.audio.decoders import DECODERS
from whisper_shard.audio.files import open_recording
from whisper_shard.audio.recording import Recording
from whisper_shard.audio.speech import find_speech_model
from whisper_shard.config.checks import MANY
from whisper_shard.config.plugins import build_plugins
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import AudioError, TextError
from whisper_shard.prepare.filters import DIVIDING, Filter, TextLength, TokenLength, build_filters
from whisper_shard.prepare.quality import measure_quality
from whisper_shard.prepare.recordings import RecordingReader, RowReader
from whisper_shard.prepare.waveform import level_peak, resample_and_trim
from whisper_shard.text.styles import build_style
from whisper_shard.utterance import MAX_SECONDS, SAMPLE_RATE, ManifestRow, Phrase, Rejection, Utterance, parse_phrases

_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
MAX_STEM = 60
"""Characters of the file name that go into the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The steps every row goes through, built from the configuration."""

    clean: Callable[[str], str]
    """Normalizes a transcript."""
    text_length: TextLength
    """Rejects texts that are too short, before the recording is opened."""
    token_length: TokenLength | None
    """Rejects texts that are too long for the decoder, likewise; None: not checked."""
    reader: RecordingReader
    """Reads the recordings; close it in the end."""
    trim_db: float
    """See PrepareConfig."""
    peak: float
    """See PrepareConfig."""
    is_measured: bool
    """Whether to measure the quality."""
    filters: tuple[Filter, ...]
    """Applied in order, up to the first rejection."""
    cutter: RowReader | None = None
    """Cuts recordings without a text into utterances; None: a row is an utterance."""
    max_seconds: float = MAX_SECONDS
    """Length below which these stay."""
    keeps_empty: bool = False
    """Whether rows with an empty transcript are kept, as recordings in which nobody speaks."""

    def is_cut(self, row: ManifestRow) -> bool:
        """Return whether a row is to be cut."""
        return self.cutter is not None and not row.is_segment and not row.transcript.strip()


def build_pipeline(config: PrepareConfig, *, open_file: Callable[[str], BinaryIO] = open_recording) -> Pipeline:
    """Build the steps from the configuration.

    Args:
        config: Settings.
        open_file: Opens a recording by its path or URL.

    Raises:
        ConfigError: An unknown kind of filter or decoder, or a parameter it does not take; or what finds speech is not
            installed.
    """
    own = build_plugins(config.decoders, DECODERS, where="decoders")
    reader = RowReader(
        (*own, *(make() for make in DECODERS.values())),
        max_seconds=config.max_recording_seconds,
        channel=None if config.channel == "mix" else int(config.channel),
        audio_column=config.audio_column,
        open_file=open_file,
    )
    if config.segment == "vad":
        find_speech_model()
    return Pipeline(
        clean=build_style(config.text_style, config.text_rules),
        text_length=TextLength(min_chars=config.min_text_chars, max_chars=MANY),
        token_length=TokenLength(tokenizer=config.tokenizer) if config.tokenizer else None,
        reader=reader,
        trim_db=config.trim_db,
        peak=config.peak,
        is_measured=config.quality,
        filters=build_filters(config),
        cutter=reader if config.segment == "vad" else None,
        max_seconds=config.max_seconds,
        keeps_empty=config.empty_texts == "keep",
    )


def prepare_row(row: ManifestRow, pipeline: Pipeline) -> Utterance | Rejection:
    """Clean the text, decode, resample, trim, measure, normalize the peak, and filter.

    Raises:
        OSError: The machine failed (I/O error, too many open files): not the row's fault.
    """
    try:
        phrases = _clean_phrases(row, pipeline)
        text = " ".join(phrase.text for phrase in phrases) if phrases else pipeline.clean(row.transcript)
    except TextError as error:
        return row.reject(error.reason, str(error))
    # Decoding is by far the most expensive step, so texts are checked first.
    may_be_empty = (pipeline.cutter is not None or pipeline.keeps_empty) and not row.transcript.strip()
    rejection = None if may_be_empty else pipeline.text_length.reject_text(text, row)
    if rejection is None and pipeline.token_length:
        rejection = pipeline.token_length.reject_text(text, row, language=row.language)
    if rejection is not None:
        return rejection
    row = _clean_prompt(row, pipeline)
    try:
        recording = pipeline.reader.read(row)
    except AudioError as error:
        return row.reject(error.reason, f"{error}{_hint(error.reason, row)}")
    except MemoryError:
        return out_of_memory(row)
    return prepare_audio(row, recording, text, phrases, pipeline)


def _hint(reason: str, row: ManifestRow) -> str:
    """Return what can be done about a recording that cannot be read."""
    if reason == "recording_too_long" and not row.is_segment:
        return DIVIDING
    if reason == "missing_file" and _WINDOWS_DRIVE.match(row.source):
        return f"; it is a path of Windows: replace {row.source[:3]} by the folder here"
    return ""


def prepare_audio(
    row: ManifestRow, recording: Recording, text: str, phrases: Sequence[Phrase], pipeline: Pipeline
) -> Utterance | Rejection:
    """Resample, trim, measure, normalize the peak, and filter.

    Args:
        row: The row, or the part of it.
        recording: Its audio.
        text: Normalized text; empty where it has none yet, or nobody speaks.
        phrases: The parts of the text.
        pipeline: The steps.
    """
    seconds = len(recording.waveform) / recording.sample_rate
    # Noise is not speech between two silences: trimming would keep little but its loudest moment.
    trim_db = 0.0 if pipeline.keeps_empty and not text else pipeline.trim_db
    try:
        trimmed, num_cut = resample_and_trim(recording, trim_db=trim_db)
        quality = measure_quality(recording, trimmed, num_chars=len(text)) if pipeline.is_measured else None
        waveform = level_peak(trimmed, recording, peak=pipeline.peak)
    except AudioError as error:
        return row.reject(error.reason, str(error), seconds=seconds)
    except MemoryError:
        return out_of_memory(row)
    utterance = Utterance(
        key=make_key(row),
        waveform=waveform,
        text=text,
        row=row,
        recording_seconds=seconds,
        recording_rate=recording.sample_rate,
        quality=quality,
        phrases=_shift(phrases, num_cut / SAMPLE_RATE, len(waveform) / SAMPLE_RATE),
    )
    rejections = (step.reject(utterance) for step in pipeline.filters)
    return next((rejection for rejection in rejections if rejection is not None), utterance)


def out_of_memory(row: ManifestRow) -> Rejection:
    """Return the rejection of a row for which the memory of a worker is too small."""
    return row.reject("decoder_out_of_memory", "needs more memory than --worker-memory-mb allows")


def _clean_phrases(row: ManifestRow, pipeline: Pipeline) -> tuple[Phrase, ...]:
    """Return the phrases of a row with normalized texts, without those of which nothing is left."""
    known = parse_phrases(row.extra.get("segments"), row.transcript)
    cleaned = (replace(phrase, text=pipeline.clean(phrase.text)) for phrase in known)
    return tuple(phrase for phrase in cleaned if phrase.text)


def _clean_prompt(row: ManifestRow, pipeline: Pipeline) -> ManifestRow:
    """Return a row whose prompt, the text before its own, is normalized as that is; without one of no use."""
    if not isinstance(prompt := row.extra.get("prompt"), str):
        return row
    try:
        cleaned = pipeline.clean(prompt)
    except TextError:
        cleaned = ""
    rest = {name: value for name, value in row.extra.items() if name != "prompt"}
    return replace(row, extra={**rest, "prompt": cleaned} if cleaned else rest)


def _shift(phrases: Sequence[Phrase], cut_seconds: float, seconds: float) -> tuple[Phrase, ...]:
    """Return phrases with the times that they have after trimming."""
    return tuple(
        replace(
            phrase,
            start=round(min(max(phrase.start - cut_seconds, 0.0), seconds), 3),
            end=round(min(max(phrase.end - cut_seconds, 0.0), seconds), 3),
        )
        for phrase in phrases
    )


def make_key(row: ManifestRow) -> str:
    """Return a row's name in the dataset: ``000000012-some_file_name-9f86d081``.

    The row number makes it unique; the digest tells rows of two corpora apart that share number and file name. Of the
    utterances of a recording that was cut, each has its number behind that.
    """
    name = row.source.rpartition("/")[2]
    dot = name.rfind(".")
    stem = _UNSAFE.sub("_", name[:dot] if 0 < dot < len(name) - 1 else name)[:MAX_STEM] or "_"
    words = f"{row.row}\n{row.source}\n{row.transcript}".encode(errors="surrogatepass")
    key = f"{row.row:09d}-{stem}-{blake2b(words, digest_size=4).hexdigest()}"
    return key if row.part is None else f"{key}-{row.part:05d}"
