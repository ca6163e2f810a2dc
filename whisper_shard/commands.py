"""The commands: each runs one job and shows its result. One function per command; each returns an exit code."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from whisper_shard import describe
from whisper_shard.config import (
    BenchConfig,
    DemoConfig,
    DoctorConfig,
    InspectConfig,
    PrepareConfig,
    ScoreConfig,
    TrainConfig,
    VerifyConfig,
)
from whisper_shard.console import Progress, say, say_error, say_warning
from whisper_shard.errors import EXIT_ENVIRONMENT, EXIT_ERROR, ConfigError
from whisper_shard.flags import dump_config
from whisper_shard.train.events import WINDOW_NAMES

if TYPE_CHECKING:
    from whisper_shard.train import events as training
    from whisper_shard.train import scorecard

GOOD_DEMO_WER = 0.20
"""A demo that ends with more has not learned, and says so."""


def prepare(config: PrepareConfig, *, corpus: str, out: str) -> int:
    """Prepare a corpus, or go on with it; with --dry-run, only say what would be done."""
    from whisper_shard.prepare import events
    from whisper_shard.prepare.corpus import plan_corpus, prepare_corpus

    if config.dry_run:
        for line in describe.describe_dry_run(plan_corpus(Path(corpus), config)):
            say(line)
        return 0
    with Progress("preparing") as progress:
        for event in prepare_corpus(Path(corpus), Path(out), config):
            match event:
                case events.PlanMade():
                    progress.say(describe.describe_plan(event))
                    is_finished = event.num_shards_done == sum(size.num_shards for size in event.splits.values())
                case events.Note():
                    progress.say(f"note: {event.message}")
                case events.Progress():
                    progress.update(event.num_rows_done, event.num_rows, describe.describe_preparation(event))
                case events.Done():
                    done = event
    for name, split in done.splits.items():
        say(describe.describe_split(Path(out) / name, split))
    if is_finished:
        say(f"nothing was left to prepare; `whisper-shard verify {Path(out) / 'train'}` reads every byte again")
        return 0
    report, speed = Path(out) / "train" / "report.html", f"{done.audio_seconds_per_second:,.0f} x real time"
    say(f"done in {describe.describe_duration(done.seconds)}, {speed}; see {report}")
    return 0


def verify(config: VerifyConfig, *, dataset: str) -> int:
    """Check every byte of a dataset; list what is wrong."""
    from whisper_shard.formats.index import open_dataset
    from whisper_shard.formats.verify import Fault, verify_dataset

    if config.sha256:
        open_dataset(dataset, sha256=config.sha256)
    num_faults, checked = 0, None
    with Progress("verifying") as progress:
        for event in verify_dataset(Path(dataset)):
            if isinstance(event, Fault):
                num_faults += 1
                where = f"{event.file}, {event.key}" if event.key else event.file
                progress.say(f"{Path(dataset)}/{where}: {event.detail}")
            else:
                checked = event
                progress.update(
                    event.num_shards, event.num_shards_total, f"shards, {event.num_utterances:,} utterances"
                )
    if num_faults:
        faults = describe.describe_number(num_faults, "fault")
        say_error(f"{dataset}: {faults}; remove the files named above and run `prepare` again, or restore them")
        return EXIT_ERROR
    if checked is not None:
        utterances = describe.describe_number(checked.num_utterances, "utterance")
        shards, size = describe.describe_number(checked.num_shards, "shard"), describe.describe_bytes(checked.num_bytes)
        say(f"{dataset}: intact; {utterances} in {shards}, {size}, all read")
    return 0


def inspect(config: InspectConfig, *, dataset: str) -> int:
    """Show what a dataset holds, or one utterance of it."""
    from whisper_shard.formats.overview import inspect_dataset, inspect_utterance, write_wav

    if config.wav and not config.key:
        raise ConfigError("--wav writes one utterance: name it with --key")
    if not config.key:
        for line in describe.describe_overview(inspect_dataset(Path(dataset))):
            say(line)
        return 0
    view = inspect_utterance(Path(dataset), config.key)
    for line in describe.describe_utterance(view):
        say(line)
    if config.wav:
        write_wav(view, Path(config.wav))
        say(f"written to {config.wav}")
    return 0


def bench(config: BenchConfig, *, dataset: str) -> int:
    """Measure the loader stage by stage, say what bounds it, and write bench.json and bench.html."""
    from whisper_shard.formats.index import open_dataset
    from whisper_shard.formats.storage import write_json
    from whisper_shard.stream.bench import bench_dataset
    from whisper_shard.stream.bench_page import write_bench_page
    from whisper_shard.train.pace import DeviceLogMel, measure_step_seconds

    data, folder = [open_dataset(path) for path in (dataset, *config.mix)], Path(config.out or dataset)
    with Progress("measuring") as progress:
        done = 0

        def show(what: str) -> None:
            nonlocal done
            done += 1
            progress.update(done, None, what)

        if config.model:
            show(f"a training step of {config.model}")
            config = replace(config, step_ms=1000 * measure_step_seconds(data[0], config))
        report = bench_dataset(data, config, show, log_mel=DeviceLogMel())
    for line in describe.describe_bench(report):
        say(line)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", report.to_json())
    write_bench_page(report, folder / "bench.html")
    say(f"see {folder / 'bench.html'} and {folder / 'bench.json'}")
    return 0


def train(config: TrainConfig, *, dataset: str, run: str) -> int:
    """Fine-tune, or go on with it; then say what came of it."""
    from whisper_shard.train.loop import train_model

    settings = partial(_write_settings, Path(run) / "train.toml", dump_config(config, "train"))
    with Progress("training") as progress:
        report = train_model(Path(dataset), Path(run), config, partial(_show_training, progress, settings))
    if os.environ.get("RANK", "0") != "0":  # set by torchrun: the first rank speaks for all
        return 0
    for line in describe.describe_run(report):
        say(line)
    board = f" and {Path(run) / 'tensorboard'}" if config.tensorboard else ""
    say(f"the model is in {report.model}; metrics in {Path(run) / 'metrics.jsonl'}{board}")
    return 0


def _show_training(progress: Progress, write_settings: Callable[[], None], event: "training.Event") -> None:
    from whisper_shard.train import events as training

    match event:
        case training.AlreadyOver():
            progress.say(f"{event.run}: this run is finished; its result:")
        case training.Started():
            write_settings()
            progress.say(describe.describe_start(event))
        case training.Resumed():
            progress.say(f"resuming from step {event.step}, {event.folder}")
        case training.Stepped():
            progress.update(event.step, event.total_steps, describe.describe_steps(event))
        case training.Examining():
            progress.update(event.num_done, event.num_utterances, f"utterances scored, {WINDOW_NAMES[event.window]}")
        case training.Evaluated(is_final=False):
            progress.say(describe.describe_evaluation(event))
        case training.Delivered():
            progress.say(describe.describe_delivery(event))
        case training.Skipped():
            progress.say(
                f"step {event.step} skipped: {event.reason} not finite; utterances {', '.join(event.keys[:8])}"
            )
        case training.Warned():
            say_warning(event.message)
        case _:  # checkpoints are not news, and what the run kept is in its report
            pass


def _write_settings(path: Path, text: str) -> None:
    from whisper_shard.formats.storage import atomic_file

    with atomic_file(path) as file:
        file.write(text.encode())


def score(config: ScoreConfig, *, model: str, dataset: str) -> int:
    """Score a model on a dataset and show where the report lies."""
    from whisper_shard.train.scorecard import score_model

    with Progress("scoring") as progress:

        def show(event: "scorecard.ScoreProgress") -> None:
            progress.update(event.num_done, event.num_utterances, f"utterances in {WINDOW_NAMES[event.window]}")

        report = score_model(model, Path(dataset), config, show)
    for line in describe.describe_score(report):
        say(line)
    for warning in report.warnings:
        say_warning(warning)
    say(f"see {report.html_path} and {report.json_path}")
    return 0


def doctor(config: DoctorConfig) -> int:
    """Examine the installation; with --fix, mend it first."""
    from whisper_shard.doctor import examine, put_cuda_extensions_aside

    for file in put_cuda_extensions_aside() if config.fix else []:
        say(f"put aside {file}: it needs CUDA libraries that this torch does not have")
    is_well = True
    for finding in examine():
        say(f"{'ok ' if finding.is_well else 'BAD'} {finding.name:<30} {finding.detail}")
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
    scored = json.loads((model / "score-eval" / "score.json").read_text())
    wer = scored["windows"]["full"]["scores"][scored["form"]]["wer"]
    if wer > GOOD_DEMO_WER:
        say_error(f"the small Whisper ends with a WER of {wer:.1%}; {GOOD_DEMO_WER:.0%} was expected: try --steps 800")
        return EXIT_ERROR
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
