"""The commands: each calls its room and shows what comes back. One function a command; each returns an exit code."""

import os
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard.config import DemoConfig, DoctorConfig, PrepareConfig, TrainConfig, dump_config
from whisper_shard.console import Progress, print_table, say, say_warning
from whisper_shard.errors import EXIT_ENVIRONMENT

if TYPE_CHECKING:
    from whisper_shard.prepare import events
    from whisper_shard.train import events as training


def prepare(config: PrepareConfig, *, corpus: str, out: str) -> int:
    """Prepare a corpus, or go on with it."""
    from whisper_shard.prepare import events
    from whisper_shard.prepare.corpus import prepare_corpus

    if config.dry_run:
        return _show_plan(config, corpus)
    with Progress("preparing") as progress:
        for event in prepare_corpus(Path(corpus), Path(out), config):
            match event:
                case events.PlanMade():
                    (Path(out) / "config.toml").write_text(dump_config(config, "prepare"))
                    progress.say(_describe_plan(event))
                case events.Note():
                    progress.say(f"note: {event.message}")
                case events.Progress():
                    progress.update(event.num_rows_done, event.num_rows, _describe_progress(event))
                case events.Done():
                    done = event
    for name, split in done.splits.items():
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in split.rejects.items())
        say(
            f"{Path(out) / name}: {split.num_utterances:,} utterances, {_hours(split.seconds_kept)} kept of "
            f"{_hours(split.seconds_in)}, {split.num_shards} shards, {split.num_bytes / 1e6:,.1f} MB; "
            f"{split.num_rejects:,} rejected{': ' + reasons if reasons else ''}"
        )
    say(f"done in {done.seconds:.1f} s, {done.audio_seconds_per_second:,.0f} x real time; see {Path(out) / 'train/report.html'}")
    return 0


def _describe_plan(plan: "events.PlanMade") -> str:
    parts = ", ".join(f"{name} {size.num_rows:,} rows in {size.num_shards} shards" for name, size in plan.splits.items())
    resumed = f"; {plan.num_shards_done} shards are done already" if plan.num_shards_done else ""
    return f"{plan.num_rows:,} rows: {parts}; {plan.jobs} workers{resumed}"


def _describe_progress(event: "events.Progress") -> str:
    eta = "" if event.eta_seconds is None else f", {event.eta_seconds:,.0f} s left"
    return (
        f"{_hours(event.hours_in * 3600)} in, {_hours(event.hours_kept * 3600)} kept, {event.num_rejects:,} rejects, "
        f"{event.audio_seconds_per_second:,.0f} x real time{eta}"
    )


def _hours(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def train(config: TrainConfig, *, dataset: str, run: str) -> int:
    """Fine-tune, or go on with it; the report says what came of it."""
    from whisper_shard.train.loop import train_model

    with Progress("training") as progress:
        report = train_model(Path(dataset), Path(run), config, partial(_show_training, progress))
    if os.environ.get("RANK", "0") != "0":  # set by torchrun: the first rank speaks for all
        return 0
    (Path(run) / "config.toml").write_text(dump_config(config, "train"))
    say(f"WER {report.wer_before:.1%} before, {report.wer:.1%} after", end="")
    low, high = report.wer_interval
    say(f" in 30 s windows (95 % interval {low:.1%} to {high:.1%}), {report.wer_short:.1%} in short windows")
    if len(report.candidates) > 1:
        print_table(("weights tried at the end", "WER"), [(name, f"{wer:.2%}") for name, wer in report.candidates.items()])
    stopped = "stopped early" if report.stopped == "early" else "ended"
    say(f"{stopped} after {report.steps} steps, best at step {report.best_step} ({report.chosen}), {_hours(report.seconds)}")
    say(f"the model is in {report.model}; metrics in {Path(run) / 'metrics.jsonl'} and {Path(run) / 'tensorboard'}")
    return 0


def _show_training(progress: Progress, event: "training.Event") -> None:
    from whisper_shard.train import events as training

    match event:
        case training.Started():
            progress.say(
                f"{event.train_utterances:,} utterances, {event.total_steps:,} steps ({event.steps_per_epoch:,} an epoch), "
                f"{event.num_parameters / 1e6:.1f} M parameters in training, {event.precision} on {event.device}, "
                f"{event.ranks} rank{'s' if event.ranks > 1 else ''}"
            )
        case training.Resumed():
            progress.say(f"going on from step {event.step}, {event.folder}")
        case training.Stepped():
            note = (
                f"loss {event.loss:.3f}, lr {event.lr:.1e}, {event.utterances_per_second:.1f} utterances/s, "
                f"{event.audio_seconds_per_second:.0f} x real time, {event.data_wait_share:.0%} waiting for data"
            )
            progress.update(event.step, event.total_steps, note)
        case training.Evaluated():
            windows = "30 s windows" if event.window == "full" else "short windows"
            capped = f", {event.cap_hits} cut off at the token limit" if event.cap_hits else ""
            best = ", the best so far" if event.is_best else ""
            progress.say(f"step {event.step}: WER {event.wer:.1%}, CER {event.cer:.1%} in {windows}, {event.seconds:.0f} s{capped}{best}")
        case training.Delivered():
            proof = "each exactly once" if event.is_complete else "NOT each exactly once"
            progress.say(f"epoch {event.epoch}: {event.utterances:,} utterances delivered, {proof}")
        case training.Skipped():
            progress.say(f"step {event.step} skipped: {event.reason} not finite; utterances {', '.join(event.keys[:8])}")
        case training.Warned():
            say_warning(event.message)
        case training.Saved():
            pass  # a checkpoint every few minutes is not news; resuming names the one it goes on from


def doctor(config: DoctorConfig) -> int:
    """Examine the installation; with --fix, mend it first."""
    from whisper_shard.doctor import examine, put_cuda_extensions_aside

    for file in put_cuda_extensions_aside() if config.fix else []:
        say(f"put aside {file}: it needs CUDA libraries that this torch does not have")
    is_well = True
    for finding in examine():
        say(f"{'ok ' if finding.is_well else 'BAD'} {finding.name:<24} {finding.detail}")
        is_well = is_well and finding.is_well
    return 0 if is_well else EXIT_ENVIRONMENT


def demo(config: DemoConfig, *, out: str) -> int:
    """Make a corpus, then run the other commands on it as a user would."""
    from whisper_shard.demo import make_corpus, write_recipe

    start, folder = time.monotonic(), Path(out)
    with Progress("speaking") as progress:
        recordings = make_corpus(folder / "corpus", num_utterances=config.utterances, seed=config.seed)
        for number, _ in enumerate(recordings, start=1):
            progress.update(number, None)
    recipe = write_recipe(folder / "demo.toml", steps=config.steps)
    say(f"a corpus of {number} recordings is in {folder / 'corpus'}, its settings in {recipe}")
    if config.corpus_only:
        return 0
    flags, data, model = ["--config", str(recipe)], folder / "data", folder / "run" / "model"
    _run("prepare", folder / "corpus" / "corpus.csv", data, *flags)
    _run("verify", data / "train")
    _run("inspect", data / "train")
    _run("bench", data / "train", *flags)
    tiny = _make_tiny_model(folder / "tiny-whisper", data / "train")
    _run("train", data, folder / "run", *flags, "--model", tiny)
    _run("score", model, data / "eval", *flags)
    say(f"\nThe whole way took {time.monotonic() - start:.0f} s. Look at")
    for what, path in {
        "the model": model,
        "its score": model / "score-eval" / "score.html",
        "the metrics": folder / "run" / "metrics.jsonl",
        "the corpus report": data / "train" / "report.html",
        "the loader report": data / "train" / "bench.html",
    }.items():
        say(f"  {what:<18} {path}")
    return 0


def _run(*words: object) -> None:
    """Run one command in a process of its own, showing it first; stop the demo where it fails."""
    line = [str(word) for word in words]
    say(f"\n$ whisper-shard {shlex.join(line)}")
    ran = subprocess.run([sys.executable, "-m", "whisper_shard", *line], check=False)
    if ran.returncode != 0:
        sys.exit(ran.returncode)


def _make_tiny_model(folder: Path, dataset: Path) -> Path:
    from whisper_shard.formats.index import open_dataset
    from whisper_shard.train.tiny import make_tiny_whisper

    make_tiny_whisper(folder, texts=list(open_dataset(dataset).columns("text")["text"]))
    say(f"\na small Whisper with random weights is in {folder}")
    return folder
