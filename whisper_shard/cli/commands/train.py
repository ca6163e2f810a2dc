"""The command `train`, and the lines it prints."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say, say_warning
from whisper_shard.config.toml import dump_config
from whisper_shard.config.train import TrainConfig
from whisper_shard.report.quantities import describe_duration
from whisper_shard.score.events import WINDOW_NAMES
from whisper_shard.storage.location import parse_location

if TYPE_CHECKING:
    from whisper_shard.train import events as training
    from whisper_shard.train.run.folder import TrainReport

_NAMED_KEYS = 8  # as many as fit into a line


def run_train(config: TrainConfig, *, dataset: str, run: str) -> int:
    """Fine-tune, or resume; then print the result."""
    from whisper_shard.storage.work_folder import work_folder
    from whisper_shard.train.build import resolve_config
    from whisper_shard.train.loop import train_model

    location = parse_location(run)
    folder = location.path if location.is_local else work_folder("runs", location)
    settings = partial(_write_settings, folder / "train.toml", dump_config(resolve_config(config), "train"))
    with Progress("training") as progress:
        progress.wait("opening data and model")
        report = train_model(dataset, run, config, partial(_show_training, progress, settings))
    if os.environ.get("RANK", "0") != "0":  # set by torchrun: only the first rank prints
        return 0
    for line in describe_run(report):
        say(line)
    board = f" and {location.join('tensorboard')}" if config.saving.tensorboard else ""
    say(f"the model is in {report.model}; metrics in {location.join('metrics.jsonl')}{board}")
    return 0


def _show_training(progress: Progress, write_settings: Callable[[], None], event: "training.Event") -> None:
    from whisper_shard.train import events as training

    match event:
        case training.AlreadyOver():
            progress.say(f"{event.run}: this run is finished; its result:")
        case training.Started():
            write_settings()
            progress.say(describe_start(event))
            progress.wait("waiting for the first batch")
        case training.LanguageChosen():
            progress.say(describe_language(event))
        case training.SilenceChosen():
            progress.say(f"short windows borrow the silence after {event.key} ({event.seconds:.2f} s, {event.dataset})")
        case training.Resumed():
            changes = f"; changed since it began: {'; '.join(event.changes)}" if event.changes else ""
            progress.say(f"resuming from step {event.step}, {event.folder}{changes}")
        case training.Stepped():
            progress.update(event.step, event.total_steps, describe_steps(event))
        case training.Evaluating():
            progress.update(event.num_done, event.num_utterances, f"utterances scored, {WINDOW_NAMES[event.window]}")
        case training.Evaluated(is_final=False):
            progress.say(describe_evaluation(event))
        case training.Delivered():
            progress.say(describe_delivery(event))
        case training.Skipped():
            progress.say(describe_skip(event))
        case training.Warned():
            say_warning(event.message)
        case training.Saved() | training.Evaluated(is_final=True):  # the latter is repeated in the report
            pass


def _write_settings(path: Path, text: str) -> None:
    from whisper_shard.storage.atomic import atomic_file

    with atomic_file(path) as file:
        file.write(text.encode())


def describe_start(event: "training.Started") -> str:
    """Return a line about the run that begins."""
    ranks = f", {event.ranks} ranks" if event.ranks > 1 else ""
    return (
        f"{event.train_utterances:,} utterances, {event.total_steps:,} steps ({event.steps_per_epoch:,} per epoch), "
        f"{event.num_parameters / 1e6:.1f} M trainable parameters, lr {event.lr:g}, "
        f"{event.precision} on {event.device}{ranks}"
    )


def describe_language(event: "training.LanguageChosen") -> str:
    """Return a line about the language of the labels."""
    total = sum(event.heard.values())
    heard = ", ".join(f"{code} in {count}" for code, count in event.heard.items())
    hearing = f"; in {total} evaluation utterances the model itself hears {heard}" if event.heard else ""
    return f"language {', '.join(event.languages)} ({event.origin}){hearing}"


def describe_steps(event: "training.Stepped") -> str:
    """Return the note behind the progress bar."""
    return (
        f"steps; loss {event.loss:.3f}, lr {event.lr:.1e}, {event.utterances_per_second:.1f} utterances/s, "
        f"{event.audio_seconds_per_second:.0f} x real time, {event.data_wait_share:.0%} waiting for data"
    )


def describe_evaluation(event: "training.Evaluated") -> str:
    """Return a line about an evaluation."""
    windows, duration = WINDOW_NAMES[event.window], describe_duration(event.seconds)
    capped = f", {event.cap_hits} cut off at the token limit" if event.cap_hits else ""
    best = ", the best so far" if event.is_best else ""
    return f"step {event.step}: WER {event.wer:.1%}, CER {event.cer:.1%} in {windows}, {duration}{capped}{best}"


def describe_delivery(event: "training.Delivered") -> str:
    """Return a line about the deliveries of an epoch."""
    verdict = "each exactly once" if event.is_complete else f"NOT each of {event.planned:,} exactly once"
    skipped = f" ({event.skipped:,} damaged ones skipped)" if event.skipped else ""
    return f"epoch {event.epoch}: {event.utterances:,} utterances delivered, {verdict}{skipped}"


def describe_skip(event: "training.Skipped") -> str:
    """Return a line about a step that changed nothing."""
    from whisper_shard.train import events as training

    if not event.keys:
        rest = ", normal now and then" if event.reason == training.FP16_OVERFLOW else ""
        return f"step {event.step} skipped: {event.reason}{rest}"
    more = f" and {len(event.keys) - _NAMED_KEYS} more" if len(event.keys) > _NAMED_KEYS else ""
    named = ", ".join(event.keys[:_NAMED_KEYS])
    return f"step {event.step} skipped: {event.reason} not finite; utterances {named}{more}"


def describe_run(report: "TrainReport") -> Iterator[str]:
    """Yield lines about the result of a run."""
    low, high = report.wer_interval
    yield (
        f"WER {report.wer_before:.1%} before, {report.wer:.2%} after, in 30 s windows (95 % interval {low:.1%} to "
        f"{high:.1%}); {report.wer_short:.2%} in short windows"
    )
    if len(report.candidates) > 1:
        tried = ", ".join(f"{name} {wer:.2%}" for name, wer in report.candidates.items())
        yield f"weights tried at the end: {tried}; kept: {report.chosen}"
    stopped = "stopped early" if report.stopped == "early" else "ended"
    yield f"{stopped} after {report.steps} steps, best at step {report.best_step}; {describe_duration(report.seconds)}"


COMMAND = Command(
    config=TrainConfig,
    positionals={
        "dataset": "prepared folder with train/ and eval/",
        "run": "run folder to write; the same command again resumes",
    },
    run=run_train,
)
