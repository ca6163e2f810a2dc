"""The command `demo`: all other commands over a synthesized corpus."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say, say_error
from whisper_shard.config.tools import DemoConfig
from whisper_shard.errors import EXIT_ERROR

GOOD_DEMO_WER = 0.20
"""A demo that ends with more has not learned, and says so."""


def run_demo(config: DemoConfig, *, out: str) -> int:
    """Make a corpus, then run the other commands on it as a user would."""
    from whisper_shard.demo.speech import make_corpus, write_recipe

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
    from whisper_shard.dataset.index import open_dataset
    from whisper_shard.demo.tiny_whisper import make_tiny_whisper

    make_tiny_whisper(folder, texts=list(open_dataset(dataset).columns("text")["text"]))
    say(f"\na small Whisper with random weights is in {folder}")
    return folder


COMMAND = Command(
    config=DemoConfig,
    positionals={"out": "output folder"},
    run=run_demo,
)
