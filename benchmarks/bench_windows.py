"""Training windows compared: WER in 30 s windows and cost of finished runs, `full` against shorter windows.

    python -m benchmarks.bench_windows --model whisper-base/ --digits spoken-digits/ --work runs/windows \
        --runs read:full:1 read:auto:1

A run is RECIPE:POLICY:SEED. Each run trains whisper-base with `train_model` or the guide's Seq2SeqTrainer and scores
the result on the whole test part. Finished runs are kept in ``--work`` and not repeated, so a long study can be made in
parts. Without ``--runs`` the finished runs are compared with `full` and `literal` of the same recipe, over all seeds,
and the JSON is written. It also has the distance of the published model in short windows from that in 30 s windows,
with and without borrowed silence: encoder states and hypotheses.

Cost is CPU seconds of optimizer steps, without evaluation. Of the spoken digits a run is trained on 480 of 2,700 and
tested on 300 others, of the same six speakers. Read speech is synthesized in many voices: 480 utterances of 3 to 12 s
for training, and 120 for testing.
"""

import argparse
import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_train import guide_features, make_trainer
from benchmarks.machine import describe_machine
from benchmarks.speech import read_digits, speak_sentences, write_speech
from benchmarks.studies import find_runs, make_parser
from whisper_shard.config.score import ScoreConfig
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset, open_dataset
from whisper_shard.model.borrowed_silence import enable_shared_attention
from whisper_shard.model.device import set_threads
from whisper_shard.model.forward import encode, encode_silence
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.whisper import load_whisper
from whisper_shard.model.window import fit_window, short_window
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_part
from whisper_shard.score.run import score_model
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.events import Advanced, Event, Stepped
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.folder import library_versions
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.utterance import MAX_SAMPLES

RESULTS = Path(__file__).parent / "results"
BATCH, LR, WARMUP = 16, 2e-5, 0.1
EVAL_LIMIT = 24  # evaluation in training only decides that the trained weights are kept
RECIPES = {"read": ("read", 30), "read-brief": ("read", 12), "digits": ("digits", 24), "digits-brief": ("digits", 12)}
"""Corpus, and number of optimizer steps of `full`."""
ALONE = {"beyond": "nothing", "min_window_seconds": 2.0, "margin_seconds": (0.2, 1.5)}
POLICIES: dict[str, tuple[float, dict[str, Any]]] = {
    "literal": (1.0, {}),
    "full": (1.0, {"window": "full"}),
    "auto": (1.0, {}),
    "auto-longer": (1.1, {}),
    "auto-quarter-longer": (1.25, {}),
    "auto-thirtysecond": (1.0, {"full_share": 1 / 32}),
    "auto-sixteenth": (1.0, {"full_share": 1 / 16}),
    "short": (1.0, {"beyond": "nothing"}),
    "sixteenth": (1.0, {**ALONE, "full_share": 1 / 16}),
    "eighth-twice": (2.0, {**ALONE, "full_share": 1 / 8}),
}
"""Steps in multiples of those of `full`, and the settings that differ from the defaults.

literal is the guide's Seq2SeqTrainer in fp32 with gradient checkpointing and 4 x 4 utterances per step. auto uses
borrowed silence; short does not; the last two do not either, but pad some utterances to 30 s."""
RIVALS = ("full", "literal")
"""Policies that all others are compared with."""


class StepClock:
    """Sum the CPU seconds of optimizer steps: the time before `Advanced` and `Stepped`, and before no other event."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self._last = time.process_time()

    def __call__(self, event: Event) -> None:
        """Count the time since the last event if a step ended."""
        now = time.process_time()
        if isinstance(event, (Advanced, Stepped)):
            self.cpu_seconds += now - self._last
        self._last = now


def main() -> None:
    """Make the given runs, or compare the finished ones."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--name", default="windows", help="name of the result in benchmarks/results")
    args = parser.parse_args()
    set_threads(args.threads)
    for run in args.runs:
        recipe, policy, seed = run.split(":")
        make_corpus(RECIPES[recipe][0], args)
        make_run(recipe, policy, int(seed), args)
    if not args.runs:
        write_result(args)


def make_corpus(corpus: str, args: argparse.Namespace) -> None:
    """Write the training and test part of a corpus, unless they exist."""
    folder = args.work / "data" / corpus
    if corpus == "read":
        write_speech(folder / "train", speak_sentences(480, shortest=3, longest=12, seed=3))
        write_speech(folder / "eval", speak_sentences(120, shortest=3, longest=12, seed=4))
    else:
        write_speech(folder / "train", read_digits(args.digits / "train.csv", 480))
        write_speech(folder / "eval", read_digits(args.digits / "test.csv", 0))


def make_run(recipe: str, policy: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score once; keep the cost and the score, but not the weights."""
    folder = args.work / recipe / f"{policy}-{seed}"
    if (folder / "run.json").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    longer, settings = POLICIES[policy]
    corpus, steps_of_full = RECIPES[recipe]
    data, steps = args.work / "data" / corpus, round(steps_of_full * longer)
    train = train_literally if policy == "literal" else train_here
    model, run = train(data, folder / "train", steps=steps, settings={**settings, "seed": seed}, args=args)
    score_model(
        str(model),
        data / "eval",
        ScoreConfig(
            out=str(folder), language="en", precision="bf16", max_new_tokens=96, window="full", threads=args.threads
        ),
    )
    run = {"steps": steps, **run, "settings": settings}
    (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    shutil.rmtree(folder / "train")
    print(folder, run, summary(folder), flush=True)


def train_here(
    data: Path, folder: Path, *, steps: int, settings: dict[str, Any], args: argparse.Namespace
) -> tuple[Path, dict[str, float]]:
    """Train with whisper-shard; return the folder of the model, and its cost."""
    defaults = {
        "model": args.model, "language": "en", "precision": "bf16", "batch_size": BATCH, "lr": LR, "warmup": WARMUP,
        "workers": 0, "max_steps": steps, "eval_every": steps, "eval_limit": EVAL_LIMIT, "max_new_tokens": 96,
        "log_every": 1, "patience": 0, "tensorboard": False, "save_minutes": 1e6, "threads": args.threads,
    }  # fmt: skip
    config = replace_settings(TrainConfig(), {**defaults, **settings})
    clock = StepClock()
    report = train_model(data, folder, config, clock)
    if report.best_step != steps:
        raise SystemExit(f"{folder}: the trained model is not better than the one before; nothing to compare")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    utterances = sum(line["utterances"] for line in trained)
    return Path(report.model), {
        "utterances": utterances,
        "mean_window_seconds": sum(line["padded_seconds"] for line in trained) / utterances,
        "cpu_seconds": clock.cpu_seconds,
    }


def train_literally(
    data: Path, folder: Path, *, steps: int, settings: dict[str, Any], args: argparse.Namespace
) -> tuple[Path, dict[str, float]]:
    """Train with the guide's Seq2SeqTrainer; features are computed before its timer starts, as in the guide."""
    loaded = load_whisper(args.model)
    dataset = open_dataset(data / "train")
    rows = guide_features(loaded, dataset, dataset.num_utterances)
    loaded.model.config.use_cache = False
    trainer = make_trainer(
        loaded, rows, str(folder), max_steps=steps, learning_rate=LR, warmup_steps=WARMUP, seed=settings["seed"],
        gradient_checkpointing=True, use_cpu=True, per_device_train_batch_size=4,
        gradient_accumulation_steps=BATCH // 4,
    )  # fmt: skip
    began = time.process_time()
    trainer.train()
    cpu_seconds = time.process_time() - began
    loaded.model.config.use_cache = True
    save_model_folder(loaded, folder / "model", language="en", task="transcribe")
    return folder / "model", {
        "utterances": steps * BATCH,
        "mean_window_seconds": 30.0,
        "cpu_seconds": cpu_seconds,
    }


def summary(folder: Path) -> dict[str, float]:
    """Return the WER of a finished run in both windows."""
    score = json.loads((folder / "score.json").read_text())
    return {name: window["scores"]["basic"]["wer"] for name, window in score["windows"].items()}


def errors_and_words(folder: Path) -> np.ndarray[Any, Any]:
    """Return errors in 30 s windows and reference words of each test utterance, sorted by key: (N, 2)."""
    rows = json.loads((folder / "score.json").read_text())["windows"]["full"]["utterances"]
    return np.array([(row["errors"], len(row["reference"].split())) for row in sorted(rows, key=lambda r: r["key"])])


def compare(ours: list[Path], rivals: list[Path]) -> dict[str, Any]:
    """Compare finished runs with those of a rival with the same seeds: cost, and a bootstrap over test utterances.

    Errors of all seeds are added up utterance by utterance, so that a resampled corpus is the same for all runs.
    """
    mine, theirs = (sum(errors_and_words(folder) for folder in folders) for folders in (ours, rivals))
    rows = np.random.default_rng(0).integers(0, len(mine), size=(5000, len(mine)))
    differences = (mine[rows, 0] - theirs[rows, 0]).sum(axis=1) / mine[rows, 1].sum(axis=1)
    cpu = [sum(json.loads((f / "run.json").read_text())["cpu_seconds"] for f in folders) for folders in (ours, rivals)]
    return {
        "seeds": len(ours),
        "cpu_share": cpu[0] / cpu[1],
        "wer": float(mine[:, 0].sum() / mine[:, 1].sum()),
        "wer_of_rival": float(theirs[:, 0].sum() / theirs[:, 1].sum()),
        "difference_interval": [float(q) for q in np.quantile(differences, [0.025, 0.975])],
    }


@torch.no_grad()
def measure_nearness(data: Dataset, model: str) -> dict[str, Any]:
    """Compare short windows, with and without borrowed silence, with 30 s windows, on the published model in float32.

    Returns the relative norm of the difference of encoder states at the positions of the short window (means over
    batches), and how many hypotheses are the same as in 30 s.
    """
    loaded, source = load_whisper(model), find_silence_source([data]).waveform
    enable_shared_attention(loaded.model.eval())
    labeler, log_mel = Labeler(loaded.tokenizer, "en"), LogMel(loaded.n_mels)
    silence = encode_silence(loaded.model, log_mel, source)
    away: dict[str, list[float]] = {"borrowed": [], "short": []}
    said: dict[str, list[str]] = {"full": [], "borrowed": [], "short": []}
    for batch in open_evaluation(data, batch_size=8, limit=48):
        short = fit_window(batch.waveforms, short_window(int(batch.num_samples.max())))
        whole = encode(loaded.model, log_mel(fit_window(batch.waveforms, MAX_SAMPLES)))
        for window, heard in (("borrowed", silence), ("short", None)):
            states = encode(loaded.model, log_mel(short), silence=heard)
            same_place = whole[:, : states.shape[1]]
            away[window].append(float((states - same_place).norm() / same_place.norm()))
        for window, texts in said.items():
            settings = EvaluationSettings(window=window, max_new_tokens=48, silence_source=source)
            part = evaluate_part(loaded, [batch], labeler, settings)
            texts.extend(row.hypothesis for row in part.utterances)
    return {
        "utterances": len(said["full"]),
        "states_away_from_30_s": {window: float(np.mean(values)) for window, values in away.items()},
        "hypotheses_as_in_30_s": {
            window: sum(a == b for a, b in zip(said[window], said["full"], strict=True)) for window in away
        },
    }


def write_result(args: argparse.Namespace) -> None:
    """Compare all finished runs, print a table, and write the JSON."""
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(threads=args.threads, versions=library_versions()),
        "settings": {"model": Path(args.model).name, "batch": BATCH, "lr": LR, "recipes": RECIPES},
    }
    for corpus, policies in find_runs(args.work, "run.json").items():
        result[corpus] = {"runs": {}, "against_full": {}, "against_literal": {}}
        for policy, by_seed in policies.items():
            for seed, folder in by_seed.items():
                run = json.loads((folder / "run.json").read_text())
                result[corpus]["runs"][f"{policy}-{seed}"] = {**run, "wer": summary(folder)}
            for rival in RIVALS:
                seeds = sorted(set(by_seed) & set(policies.get(rival, {})))
                if policy != rival and seeds:
                    found = compare([by_seed[s] for s in seeds], [policies[rival][s] for s in seeds])
                    result[corpus][f"against_{rival}"][policy] = found
                    shown = {key: np.round(value, 4).tolist() for key, value in found.items()}
                    print(f"{corpus} {policy:<18} against {rival}", shown)
    result["nearness"] = {
        path.name: measure_nearness(open_dataset(path / "eval"), args.model)
        for path in sorted((args.work / "data").iterdir())
    }
    print(json.dumps(result["nearness"], indent=1))
    path = RESULTS / f"{result['date']}-{args.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
