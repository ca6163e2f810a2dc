"""The command `demo`: all other commands over a synthesized corpus."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from whisper_shard.cli.command import Command
from whisper_shard.cli.console import Progress, say
from whisper_shard.config.tools import DemoConfig
from whisper_shard.errors import TrainingError

EXPECTED_WER = 0.20
"""The demo reports an error if its model ends with a higher WER."""


def run_demo(config: DemoConfig, *, out: str) -> int:
    """Make a corpus, then run the other commands on it as a user would.

    Raises:
        TrainingError: The model has not learned the corpus.
    """
    start, folder = time.monotonic(), Path(out)
    recipe = _make_corpus(config, folder)
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
    check_wer(model / "score-eval" / "score.json")
    say(f"\nThe demo took {time.monotonic() - start:.0f} s. Look at")
    for name, path in {
        "the model": model,
        "its score": model / "score-eval" / "score.html",
        "the metrics": folder / "run" / "metrics.jsonl",
        "the corpus report": data / "train" / "report.html",
        "the loader report": data / "train" / "bench.html",
    }.items():
        say(f"  {name:<18} {path}")
    return 0


def _make_corpus(config: DemoConfig, folder: Path) -> Path:
    from whisper_shard.demo.speech import make_corpus, write_recipe

    num_recordings = 0
    with Progress("synthesizing") as progress:
        for _ in make_corpus(folder / "corpus", num_utterances=config.utterances, seed=config.seed):
            num_recordings += 1
            progress.update(num_recordings, None, "recordings")
    recipe = write_recipe(folder / "demo.toml", steps=config.steps)
    say(f"a corpus of {num_recordings} recordings is in {folder / 'corpus'}, its settings in {recipe}")
    return recipe


def _run(*words: object) -> None:
    """Print a command and run it in a process of its own; where it fails, exit with its exit code."""
    line = [str(word) for word in words]
    say(f"\n$ whisper-shard {shlex.join(line)}")
    ran = subprocess.run([sys.executable, "-m", "whisper_shard", *line], check=False)
    if ran.returncode != 0:
        sys.exit(ran.returncode)


def _make_tiny_model(folder: Path, dataset: Path) -> Path:
    from whisper_shard.dataset.index import open_dataset
    from whisper_shard.demo.tiny_whisper import make_tiny_whisper

    # English-only: CTranslate2 and whisper.cpp take any vocabulary as small as this for one without languages.
    make_tiny_whisper(folder, texts=list(open_dataset(dataset).columns("text")["text"]), is_multilingual=False)
    say(f"\na small Whisper with random weights is in {folder}")
    return folder


def check_wer(score_path: Path) -> None:
    """Check that the model has learned the corpus.

    Args:
        score_path: ``score.json`` of the model.

    Raises:
        TrainingError: The WER is above EXPECTED_WER.
    """
    score = json.loads(score_path.read_text())
    wer = score["windows"]["full"]["scores"][score["form"]]["wer"]
    if wer > EXPECTED_WER:
        raise TrainingError(
            f"the small Whisper ends with a WER of {wer:.1%}; at most {EXPECTED_WER:.0%} was expected: try --steps 800"
        )


COMMAND = Command(
    has_urls=False,
    config=DemoConfig,
    positionals={"out": "output folder"},
    run=run_demo,
)
