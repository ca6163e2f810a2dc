"""Transcribe recordings: what is done already is kept, the others are read, transcribed side by side and written."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_shard.audio.speech import find_speech_model
from whisper_shard.config.transcribe import TranscribeConfig
from whisper_shard.errors import AudioError, ConfigError, StateError
from whisper_shard.inference.fallback import FallbackRules
from whisper_shard.inference.long_form import (
    HeardRecording,
    LongFormSettings,
    LongFormTranscriber,
    SpokenSegment,
    WindowResult,
)
from whisper_shard.inference.words import Word
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.text.languages import whisper_language
from whisper_shard.transcribe.audio import pack_speech, read_recording
from whisper_shard.transcribe.events import Begun, Event, Failed, Finished, Heard, Kept, Redone
from whisper_shard.transcribe.formats import Transcript, TranscriptSegment, TranscriptWord
from whisper_shard.transcribe.receipts import OutputFolder, Record
from whisper_shard.transcribe.sources import Source, find_sources
from whisper_shard.utterance import FRAMES_PER_SECOND

_DECIDING = (
    "task", "temperatures", "max_compression_ratio", "min_avg_logprob", "max_no_speech", "condition_on_previous",
    "max_new_tokens", "seed", "vad",
    "word_timestamps",
)  # fmt: skip
"""Settings that decide the text, beside language and precision, which are resolved first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeReport:
    """What became of the recordings."""

    num_recordings: int
    """All that were named."""
    num_kept: int
    """Transcribed by an earlier run."""
    num_failed: int
    """Not transcribed."""
    audio_seconds: float
    """Length of what this run transcribed."""
    seconds: float
    """Wall time, without loading the model."""


def _ignore(_event: Event) -> None:
    """Do nothing: the default receiver of events."""


def transcribe_recordings(
    model: str,
    recordings: Sequence[str],
    config: TranscribeConfig | None = None,
    on_event: Callable[[Event], None] = _ignore,
) -> TranscribeReport:
    """Transcribe files, folders and URLs, and write what `TranscribeConfig.format` says.

    A recording that cannot be read does not stop the others: it is reported as `Failed`.

    Args:
        model: Folder or hub name of the model.
        recordings: Files, folders and URLs.
        config: Settings of the command; None: the defaults, which write nothing.
        on_event: Called with everything that happens.

    Raises:
        ModelError: The model cannot be used.
        ConfigError: Nothing to transcribe, model and recording are swapped, or a setting does not fit the model.
        EnvironmentFault: The disk or the network fails.
    """
    config = config or TranscribeConfig()
    set_threads(config.threads)
    store = ObjectStore()
    _check_order(model, recordings)
    sources = find_sources(recordings, store)
    if config.vad:
        find_speech_model()
    loaded = load_whisper(model)
    loaded.model.eval()
    device = choose_device()
    set_up_gpu(device)
    loaded.model.to(device)
    return _Run(loaded, sources, config, store, on_event).run()


def default_language(loaded: LoadedWhisper) -> str:
    """Return the language in a model's generation settings, as Whisper's code; empty: none."""
    named = getattr(loaded.model.generation_config, "language", None) if loaded.is_multilingual else None
    return whisper_language(named.strip("<|>")) if isinstance(named, str) and named else ""


def _check_order(model: str, recordings: Sequence[str]) -> None:
    """Check that the model comes first.

    Raises:
        ConfigError: It does not.
    """
    folders = [text for text in recordings if (Path(text) / "config.json").is_file()]
    if folders and not (Path(model) / "config.json").is_file() and (Path(model).exists() or "://" in model):
        raise ConfigError(f"the model comes first: whisper-shard transcribe {folders[0]} {model}")


def _check_language(loaded: LoadedWhisper, config: TranscribeConfig) -> None:
    """Check language and task of an English-only model.

    Raises:
        ConfigError: They ask for another language.
    """
    if loaded.is_multilingual:
        return
    if config.language and whisper_language(config.language) != "en":
        raise ConfigError(f"--language {config.language}: {loaded.path} is English-only")
    if config.task == "translate":
        raise ConfigError(f"--task translate: {loaded.path} is English-only")


@dataclass(slots=True, kw_only=True)
class _Open:
    """A recording that is being transcribed."""

    source: Source
    state: Sequence[int]
    seconds: float
    segments: list[TranscriptSegment] = field(default_factory=list)


class _Run:
    """One run over some recordings."""

    def __init__(
        self,
        loaded: LoadedWhisper,
        sources: Sequence[Source],
        config: TranscribeConfig,
        store: ObjectStore,
        on_event: Callable[[Event], None],
    ) -> None:
        _check_language(loaded, config)
        self._only_language = None if loaded.is_multilingual else "en"
        self._sources, self._store, self._on_event, self._batch = sources, store, on_event, config.batch
        device = loaded.model.device
        dtype = choose_precision(config.precision, device)
        language = (whisper_language(config.language) if config.language else "") or default_language(loaded)
        self._settings: dict[str, Any] = {
            **{name: _as_json(getattr(config, name)) for name in _DECIDING},
            "language": language,
            "precision": str(dtype).removeprefix("torch."),
            "model": loaded.fingerprint,
        }
        self._transcriber = LongFormTranscriber(
            loaded,
            LongFormSettings(
                language=language,
                task=config.task,
                fallback=_fallback_rules(config),
                max_new_tokens=config.max_new_tokens,
                condition_on_previous=config.condition_on_previous,
                word_timestamps=config.word_timestamps,
                seed=config.seed,
                dtype=dtype,
            ),
        )
        self._log_mel = LogMel(loaded.n_mels).to(device)
        self._output = None
        if config.output:
            self._output = OutputFolder(
                location=parse_location(config.output), formats=config.format or ("txt",), store=store
            )
        self._open: dict[str, _Open] = {}
        self._num_kept = self._num_failed = 0
        self._audio_seconds = 0.0

    def run(self) -> TranscribeReport:
        """Transcribe all."""
        begin = time.perf_counter()
        for result in self._transcriber.transcribe(self._read_all(), batch=self._batch):
            self._take(result)
        return TranscribeReport(
            num_recordings=len(self._sources),
            num_kept=self._num_kept,
            num_failed=self._num_failed,
            audio_seconds=self._audio_seconds,
            seconds=time.perf_counter() - begin,
        )

    def _read_all(self) -> Iterator[HeardRecording]:
        """Yield the recordings that are not done yet, as they are needed."""
        for source in self._sources:
            try:
                heard = self._read(source)
            except (AudioError, StateError) as error:
                self._num_failed += 1
                self._on_event(Failed(name=source.name, cause=str(error)))
                continue
            if heard is not None:
                yield heard

    def _read(self, source: Source) -> HeardRecording | None:
        """Return a recording, or None if its transcript can be kept.

        Raises:
            AudioError: It cannot be read.
            StateError: Its transcript would overwrite something else.
        """
        state = source.state()
        if self._output is not None and self._is_kept(self._output, source, state):
            return None
        decoded = read_recording(source, self._store, self._log_mel, find_speech=self._settings["vad"])
        spectrogram, windows = decoded.spectrogram, None
        if decoded.speech is not None:
            windows = pack_speech(
                decoded.speech, num_frames=spectrogram.num_frames, max_frames=self._transcriber.window_frames
            )
        self._open[source.name] = _Open(source=source, state=state, seconds=spectrogram.seconds)
        speech = None if windows is None else sum(end - start for start, end in windows) / FRAMES_PER_SECOND
        self._on_event(Begun(name=source.name, seconds=spectrogram.seconds, speech_seconds=speech))
        return HeardRecording(name=source.name, spectrogram=spectrogram, windows=windows)

    def _is_kept(self, output: OutputFolder, source: Source, state: Sequence[int]) -> bool:
        record = output.read_record(source.stem)
        change = record.find_change(state, self._settings) if record is not None else ""
        if record is not None and not change:
            self._num_kept += 1
            files = output.write_missing(source.stem, record)
            self._on_event(Kept(name=source.name, seconds=record.transcript.seconds, files=files))
            return True
        output.check_free(source.stem, record)
        if change:
            self._on_event(Redone(name=source.name, cause=change))
        return False

    def _take(self, result: WindowResult) -> None:
        """Add the result of a window to its recording, and write the transcript after the last."""
        recording = self._open[result.name]
        new = [_as_segment(segment) for segment in result.segments]
        recording.segments += new
        self._on_event(
            Heard(name=result.name, language=result.language, segments=new, position_seconds=result.position_seconds)
        )
        if not result.is_last:
            return
        del self._open[result.name]
        self._audio_seconds += recording.seconds
        files: list[str] = []
        if self._output is not None:
            transcript = Transcript(
                language=result.language or self._only_language,
                seconds=recording.seconds,
                segments=tuple(recording.segments),
            )
            record = Record(source=recording.state, settings=self._settings, transcript=transcript, files={})
            files = self._output.write(recording.source.stem, record)
        self._on_event(Finished(name=result.name, seconds=recording.seconds, files=files))


def _fallback_rules(config: TranscribeConfig) -> FallbackRules:
    return FallbackRules(
        temperatures=config.temperatures,
        max_compression_ratio=config.max_compression_ratio or None,
        min_avg_logprob=config.min_avg_logprob,
        max_no_speech=config.max_no_speech,
    )


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_segment(segment: SpokenSegment) -> TranscriptSegment:
    return TranscriptSegment(
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        text=segment.text,
        temperature=segment.temperature,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_probability,
        words=None if segment.words is None else tuple(map(_as_word, segment.words)),
    )


def _as_word(word: Word) -> TranscriptWord:
    return TranscriptWord(
        start=round(word.start, 3), end=round(word.end, 3), word=word.word, probability=round(word.probability, 4)
    )
