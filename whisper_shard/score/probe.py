"""Probe whether training broke what a model could do: long recordings, and the times of their segments.

Utterances are joined to long recordings (`joined`), which the model and the one it was trained from transcribe by the
rules of `transcribe`, window after window, led by the times that the model itself gives.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from whisper_shard.config.score import ScoreConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.dataset.search import check_texts
from whisper_shard.errors import ConfigError
from whisper_shard.inference.long_form import HeardRecording, LongFormSettings, LongFormTranscriber, SpokenSegment
from whisper_shard.inference.spectrogram import SpectrogramBuilder
from whisper_shard.model.device import choose_device, choose_precision, set_threads, set_up_gpu
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.report.quantities import describe_number
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.events import ScoreProgress
from whisper_shard.score.joined import PAUSE, JoinedRecording, JoinRules, join_utterances
from whisper_shard.score.probe_report import FEW_RECORDINGS, ProbeReport, probe_as_json, summarize_probe
from whisper_shard.score.run import check_order, default_folder, local_out, make_folder
from whisper_shard.score.saved import is_score_folder
from whisper_shard.storage.atomic import write_json
from whisper_shard.text.languages import WITHOUT_SPACES
from whisper_shard.utterance import Phrase
from whisper_shard.version import __version__

PROBE_NAME = "probe.json"
"""Name of the report in the folder of a score."""
DECODING = LongFormSettings(seed=42)
"""The defaults of `transcribe`; language and precision are set for each model and recording."""


def _ignore(_event: ScoreProgress) -> None:
    """Do nothing: the default receiver of progress."""


def probe_model(
    model: str, dataset: Path | str, config: ScoreConfig, progress: Callable[[ScoreProgress], None] = _ignore
) -> ProbeReport:
    """Transcribe long recordings joined from a dataset with a model and with its base, and write probe.json.

    Args:
        model: Folder or hub name of the model.
        dataset: A finished dataset: a local path or a URL.
        config: Settings of the command; ``against`` is the base, else the one in the settings of the model's run.
        progress: Called after each window.

    Raises:
        ModelError: A model cannot be used.
        DatasetError: The dataset cannot be read, or has no texts to compare with.
        ConfigError: Model and dataset are swapped, ``against`` is no model, or a language or precision not possible.
        EnvironmentFault: The report cannot be written.
    """
    check_order(model, dataset)
    data = open_dataset(dataset)
    check_texts(data)
    base, notes = _find_base(model, config.against)
    rules = JoinRules(
        minutes=config.probe_minutes,
        most=config.probe_recordings,
        limit=config.limit,
        language=config.language or "en",
    )
    recordings, left_out = join_utterances(data, rules)
    folder = make_folder(local_out(config) or default_folder(model, data.location))
    here = _transcribe(model, recordings, config, progress)
    there = _transcribe(base, recordings, config, progress) if base else None
    report = ProbeReport(
        model=model,
        base=base,
        dataset=str(data.location),
        form=config.text_form,
        num_utterances=sum(len(recording.utterances) for recording in recordings),
        num_all=data.num_utterances,
        parts=summarize_probe(here.rows, there.rows if there else None, form=config.text_form),
        settings={**_describe(data, config), **_describe_models(here, there)},
        notes=(*notes, *left_out, *_note_few(recordings)),
        json_path=folder / PROBE_NAME,
    )
    write_json(report.json_path, probe_as_json(report))
    return report


def _find_base(model: str, against: str) -> tuple[str, tuple[str, ...]]:
    """Return the model to compare with, and a note about it; empty: there is none.

    Raises:
        ConfigError: What was given is no model.
    """
    if against:
        path = Path(against)
        is_other = path.is_file() or is_score_folder(path) or (path.is_dir() and not (path / "config.json").is_file())
        if is_other or (path.is_absolute() and not path.exists()):
            raise ConfigError(
                f"--against {against}: is no model, and with --probe both transcribe; give a model's folder or name"
            )
        return against, ()
    named = _read_base(Path(model).absolute().parent / "train.json")
    if named and (Path(named) / "config.json").is_file():
        return named, (f"compared with {named}, which the settings of the run name",)
    known = f"the run names {named}, which is no folder here" if named else "no run beside the model names one"
    return "", (f"compared with no base model: {known}; give --against BASE",)


def _read_base(path: Path) -> str:
    """Return the model that a run's settings name; empty: there are none that can be read."""
    try:
        named = json.loads(path.read_bytes())["settings"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return named if isinstance(named, str) else ""


@dataclass(frozen=True, slots=True)
class _Transcribed:
    rows: Sequence[EvaluatedUtterance]
    fingerprint: str
    precision: str
    device: str


def _transcribe(
    model: str, recordings: Sequence[JoinedRecording], config: ScoreConfig, progress: Callable[[ScoreProgress], None]
) -> _Transcribed:
    """Return recordings as a model transcribes them, each with its places and segments."""
    set_threads(config.threads)
    loaded = load_whisper(model)
    loaded.model.eval()
    device = choose_device()
    set_up_gpu(device)
    loaded.model.to(device)
    dtype = choose_precision(config.precision, device)
    segments: dict[str, list[SpokenSegment]] = {recording.name: [] for recording in recordings}
    log_mel = LogMel(loaded.n_mels).to(device)
    position = dict.fromkeys(segments, 0.0)
    in_order = sorted(recordings, key=_language_of)
    for language, group in groupby(in_order, key=_language_of):
        transcriber = LongFormTranscriber(loaded, replace(DECODING, language=language, dtype=dtype))
        heard = (_hear(recording, log_mel) for recording in list(group))
        for result in transcriber.transcribe(heard, batch=config.eval_batch):
            segments[result.name] += result.segments
            position[result.name] = result.position_seconds
            progress(_count(recordings, position))
    rows = [_as_row(recording, segments[recording.name]) for recording in recordings]
    precision = str(dtype).removeprefix("torch.")
    return _Transcribed(rows, _short(loaded), precision, str(device))


def _language_of(recording: JoinedRecording) -> str:
    return recording.language


def _short(loaded: LoadedWhisper) -> str:
    return f"sha256 {loaded.fingerprint[:16]}"


def _hear(recording: JoinedRecording, log_mel: LogMel) -> HeardRecording:
    builder = SpectrogramBuilder(log_mel)
    builder.add(recording.waveform)
    return HeardRecording(name=recording.name, spectrogram=builder.finish())


def _count(recordings: Sequence[JoinedRecording], position: dict[str, float]) -> ScoreProgress:
    ends = [(recording.name, each.end) for recording in recordings for each in recording.utterances]
    done = sum(end <= position[name] for name, end in ends)
    return ScoreProgress(window="long", num_done=done, num_utterances=len(ends))


def _as_row(recording: JoinedRecording, segments: Sequence[SpokenSegment]) -> EvaluatedUtterance:
    """Return a recording in the form of an utterance: utterances are its phrases, segments those of the hypothesis."""
    between = "" if recording.language in WITHOUT_SPACES else " "
    return EvaluatedUtterance(
        key=recording.name,
        reference=between.join(each.text for each in recording.utterances),
        hypothesis=between.join(segment.text.strip() for segment in segments),
        language=recording.language,
        hit_cap=False,
        seconds=recording.seconds,
        phrases=tuple(Phrase(start=each.start, end=each.end, text=each.text.strip()) for each in segments),
        reference_phrases=tuple(
            Phrase(start=each.start, end=each.end, text=each.text) for each in recording.utterances
        ),
    )


def _describe(data: Dataset, config: ScoreConfig) -> dict[str, str]:
    return {
        "text form": config.text_form,
        "recordings": f"{config.probe_recordings} of {config.probe_minutes:g} min at most, joined by a fixed shuffle",
        **({"utterances": f"{config.limit:,} by a fixed shuffle"} if config.limit else {}),
        "between utterances": PAUSE,
        "language where the data has none": config.language or "en",
        "decoding": f"thresholds and temperatures of `transcribe`, seed {DECODING.seed}",
        "intervals": "95 % of corpora resampled from whole recordings",
        "index.parquet": f"sha256 {data.index_sha256[:16]}",
        "whisper-shard": __version__,
    }


def _describe_models(here: _Transcribed, there: _Transcribed | None) -> dict[str, str]:
    return {
        "precision": here.precision,
        "device": here.device,
        "weights": here.fingerprint,
        **({"weights of the base": there.fingerprint} if there else {}),
    }


def _note_few(recordings: Sequence[JoinedRecording]) -> list[str]:
    if len(recordings) >= FEW_RECORDINGS:
        return []
    number = describe_number(len(recordings), "recording")
    return [
        f"intervals come from {number} only and are guesses: more utterances, shorter --probe-minutes or more "
        "--probe-recordings give more"
    ]
