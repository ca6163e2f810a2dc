"""The command `train`, and the lines it prints."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say, say_warning
from whisper_shard.config.toml import dump_config
from whisper_shard.config.train import TrainConfig
from whisper_shard.report.quantities import describe_bytes, describe_duration, describe_number
from whisper_shard.score.events import WINDOW_NAMES
from whisper_shard.storage.location import parse_location

if TYPE_CHECKING:
    from whisper_shard.train import events as training
    from whisper_shard.train.dry_run import DryRun
    from whisper_shard.train.run.folder import TrainReport

_NAMED_KEYS = 8  # as many as fit into a line


def run_train(config: TrainConfig, *, dataset: str, run: str) -> int:
    """Fine-tune, or resume; then print the result."""
    if config.saving.dry_run:
        return _run_dry(config, dataset)
    location = parse_location(run)
    with Progress("training", shows_remaining=False) as progress:
        progress.wait("loading torch and transformers")
        from whisper_shard.storage.work_folder import work_folder
        from whisper_shard.train.build import resolve_config
        from whisper_shard.train.loop import train_model

        folder = location.path if location.is_local else work_folder("runs", location)
        settings = partial(_write_settings, folder / "train.toml", dump_config(resolve_config(config), "train"))
        progress.wait("opening the data")
        report = train_model(dataset, run, config, TrainingView(progress, settings))
    if os.environ.get("RANK", "0") != "0":  # set by torchrun: only the first rank prints
        return 0
    for line in describe_run(report):
        say(line)
    board = f" and {location.join('tensorboard')}" if config.saving.tensorboard else ""
    say(f"the model is in {report.model}; metrics in {location.join('metrics.jsonl')}{board}")
    return 0


def _run_dry(config: TrainConfig, dataset: str) -> int:
    """Print what a run would do and how long it would take."""
    with Progress("trying", shows_remaining=False) as progress:
        progress.wait("loading torch and transformers")
        from whisper_shard.train.dry_run import try_training

        progress.wait("opening the data")
        found = try_training(dataset, config, TrainingView(progress))
    if os.environ.get("RANK", "0") == "0":
        for line in describe_dry_run(found):
            say(line)
    return 0


class TrainingView:
    """Shows a run: lines that stay, and one that moves with each step, with the time that is left.

    Args:
        progress: Prints.
        write_settings: Called once the run folder exists.
    """

    def __init__(self, progress: Progress, write_settings: Callable[[], None] = lambda: None) -> None:
        self._progress = progress
        self._write_settings = write_settings
        self._note = ""
        self._left = ""
        self._total_steps = 0
        self._evaluation_began = 0.0

    def __call__(self, event: "training.Event") -> None:
        """Show an event."""
        from whisper_shard.train import events as training

        say = self._progress.say
        match event:
            case training.AlreadyOver():
                say(f"{event.run}: this run is finished; its result:")
            case training.Preparing():
                self._progress.wait(event.what)
            case training.Started():
                self._write_settings()
                self._total_steps = event.total_steps
                for line in describe_start(event):
                    say(line)
            case training.LanguageChosen():
                say(describe_language(event))
            case training.SilenceChosen():
                say(f"short windows borrow the silence after {event.key} ({event.seconds:.2f} s, {event.dataset})")
            case training.Resumed():
                changes = f"; changed since it began: {'; '.join(event.changes)}" if event.changes else ""
                say(f"resuming from step {event.step}, {event.folder}{changes}")
            case training.Advanced() | training.Stepped() | training.Evaluating():
                self._move(event)
            case training.Estimated():
                say(describe_estimate(event))
            case training.Evaluated(is_final=False):
                say(describe_evaluation(event))
                self._show_steps(event.step)
            case training.Delivered():
                say(describe_delivery(event))
            case training.Skipped():
                say(describe_skip(event))
            case training.Warned():
                say_warning(event.message)
            # The final evaluation is repeated in the report, and a gap that is too wide in a warning.
            case training.Saved() | training.GapMeasured() | training.Evaluated(is_final=True):
                pass

    def _move(self, event: "training.Advanced | training.Stepped | training.Evaluating") -> None:
        """Move the line that does not stay."""
        from whisper_shard.train import events as training

        if isinstance(event, training.Evaluating):
            if event.num_done == 0:
                self._evaluation_began = time.monotonic()
            note = describe_scoring(event, time.monotonic() - self._evaluation_began)
            self._progress.update(event.num_done, event.num_utterances, note)
            return
        if isinstance(event, training.Stepped):
            self._note = describe_steps(event)
        elif event.remaining_seconds is not None:
            self._left = f", {describe_duration(event.remaining_seconds)} to go"
        self._total_steps = event.total_steps
        self._show_steps(event.step)

    def _show_steps(self, step: int) -> None:
        self._progress.update(
            step, self._total_steps, f"steps{self._left or '; waiting for the first batch'}{self._note}"
        )


def _write_settings(path: Path, text: str) -> None:
    from whisper_shard.storage.atomic import atomic_file

    with atomic_file(path) as file:
        file.write(text.encode())


def describe_start(event: "training.Started") -> Iterator[str]:
    """Yield lines about what the run is going to do."""
    forecast = event.forecast
    sharded = f" (--shard {event.shard})" if event.shard != "none" else ""
    ranks = f", {event.ranks} ranks{sharded}" if event.ranks > 1 else ""
    share = forecast.num_trained / forecast.num_parameters
    yield (
        f"{event.train_utterances:,} utterances, {event.total_steps:,} steps ({event.steps_per_epoch:,} per epoch), "
        f"lr {event.lr:g}, {event.precision} on {event.device}{ranks}"
    )
    if event.shard != "none" and event.ranks == 1:
        yield f"--shard {event.shard} changes nothing with one rank; bin/train-ddp starts several"
    if event.silent_utterances:
        yield f"{event.silent_utterances:,} of the utterances have no text: the model learns to write nothing there"
    yield (
        f"{forecast.num_parameters / 1e6:,.1f} M parameters, {forecast.num_trained / 1e6:,.1f} M of them trained "
        f"({share:.1%})"
    )
    yield describe_passes(forecast)
    yield describe_memory(forecast)


def describe_passes(forecast: "training.Forecast") -> str:
    """Return a line about windows and passes of a step."""
    low, high = forecast.windows
    windows = f"{low:.1f} s" if low == high else f"{low:.1f} to {high:.1f} s"
    least, most = forecast.passes
    passes = f"{most} pass{'' if most == 1 else 'es'}"
    passes = passes if least == most else f"{least} to {passes}"
    return (
        f"a step: {forecast.utterances:,.1f} windows of {windows} with {forecast.audio_seconds:,.0f} s of audio "
        f"({forecast.window_seconds:,.0f} s with padding), in {passes}"
    )


def describe_memory(forecast: "training.Forecast") -> str:
    """Return a line about the memory of a step, by part."""
    memory, largest = forecast.memory, forecast.largest
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "moving average": memory.average,
        "activations": memory.activations,
    }
    shown = ", ".join(f"{name} {describe_bytes(size)}" for name, size in parts.items() if size)
    return (
        f"memory of the largest pass ({largest.rows} x {largest.window_seconds:.1f} s): about "
        f"{describe_bytes(memory.total)} of {describe_bytes(forecast.device_bytes)} ({shown})"
    )


def describe_estimate(event: "training.Estimated") -> str:
    """Return a line about how long the run will take."""
    steps = f"{describe_number(event.steps, 'step')} of {describe_duration(event.step_seconds)}"
    evaluations = f", {event.evaluations} evaluations of {describe_duration(event.evaluation_seconds)}"
    return (
        f"about {describe_duration(event.remaining_seconds)} to go, if it does not stop early: {steps}"
        f"{evaluations if event.evaluation_seconds else '; evaluations come on top'}"
    )


def describe_dry_run(found: "DryRun") -> Iterator[str]:
    """Yield lines about what a dry run has measured."""
    if found.peak_bytes is not None:
        yield f"memory measured at the peak, evaluation included: {describe_bytes(found.peak_bytes)}"
    steps = describe_number(found.started.total_steps, "step")
    yield (
        f"the run takes about {describe_duration(found.seconds)} here, if it does not stop early: {steps} of "
        f"{describe_duration(found.step_seconds)} ({found.timed_steps} timed), {found.evaluations} evaluations of "
        f"{describe_duration(found.evaluation_seconds)} ({describe_number(found.timed_utterances, 'utterance')} timed)"
    )
    yield "dry run: nothing was written"


def describe_scoring(event: "training.Evaluating", seconds: float) -> str:
    """Return the note of an evaluation in progress.

    Args:
        event: How far it is.
        seconds: Time since it began.
    """
    note = f"utterances scored, {WINDOW_NAMES[event.window]}"
    if not 0 < event.num_done < event.num_utterances:
        return note
    left = seconds / event.num_done * (event.num_utterances - event.num_done)
    return f"{note}, {describe_duration(left)} to go"


def describe_language(event: "training.LanguageChosen") -> str:
    """Return a line about the language of the labels."""
    total = sum(event.heard.values())
    heard = ", ".join(f"{code} in {count}" for code, count in event.heard.items())
    hearing = f"; in {total} evaluation utterances the model itself hears {heard}" if event.heard else ""
    return f"language {', '.join(event.languages)} ({event.origin}){hearing}"


def describe_steps(event: "training.Stepped") -> str:
    """Return the note behind the progress bar."""
    return (
        f"; loss {event.loss:.3f}, lr {event.lr:.1e}, {event.utterances_per_second:.1f} utterances/s, "
        f"{event.audio_seconds_per_second:.0f} x real time, {event.data_wait_share:.0%} waiting for data"
    )


def describe_evaluation(event: "training.Evaluated") -> str:
    """Return a line about an evaluation."""
    windows, duration = WINDOW_NAMES[event.window], describe_duration(event.seconds)
    capped = f", {event.cap_hits} cut off at the token limit" if event.cap_hits else ""
    best = ", the best so far" if event.is_best else ""
    on = f" on {event.dataset}" if event.dataset else ""
    invented = f", words in {event.num_invented} of {event.num_silent} without speech" if event.num_silent else ""
    rates = f"WER {event.wer:.1%}, CER {event.cer:.1%}"
    return f"step {event.step}: {rates} in {windows}{on}, {duration}{invented}{capped}{best}"


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
    for name, (before, after) in report.also.items():
        yield f"{name}: WER {'not known' if before is None else f'{before:.1%}'} before, {after:.2%} after"
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
