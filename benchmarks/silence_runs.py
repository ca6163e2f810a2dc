"""Training runs for `bench_silence`: the product's own steps, with a meter in place of its evaluation.

The meter scores the model in real 30 s windows utterance by utterance, loss and errors, so that two runs can be
compared in pairs. A run that was stopped goes on from its last checkpoint.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.bench_windows import StepClock
from benchmarks.silence_corpora import make_music, make_noise
from benchmarks.silence_stand_ins import LearnedSilence, learn_faster, lend_background
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.index import Dataset
from whisper_shard.model.borrowed_silence import SilenceStates
from whisper_shard.model.forward import SpeechLoss
from whisper_shard.score.evaluate import BatchEvaluator, EvaluationPart, EvaluationSettings, finish_evaluation
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.score.events import Window
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.train.build import pause_garbage_collector, resolve_config
from whisper_shard.train.data import Corpora, open_corpora
from whisper_shard.train.global_batch import GlobalBatch
from whisper_shard.train.loop import Trainer
from whisper_shard.train.run.context import RunContext, open_machine
from whisper_shard.train.run.folder import RunFolder, claim_run
from whisper_shard.train.signals import catch_stop_signals
from whisper_shard.train.silence_source import find_silence_source
from whisper_shard.train.start import load_checked

Row = dict[str, Any]
MAX_NEW_TOKENS = 160
"""Longest hypothesis in tokens."""
WINDOWS_AT_END: tuple[Window, ...] = ("borrowed", "short")
"""Windows in which the last weights are scored, besides those of 30 s."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of the study."""

    data: Path
    """Folder with ``train`` and ``eval``."""
    folder: Path
    """Of this run; ``run.json`` in it says that it is finished."""
    settings: dict[str, Any]
    """Flat names of `TrainConfig` that differ from its defaults."""
    marks: int
    """Utterances scored at each evaluation before the last."""
    tested: int
    """Utterances scored at the last evaluation; 0: all."""
    refresh: int = 1
    """Compute borrowed silence anew every so many steps; 0: only once."""
    lends: Literal["silence", "constants", "noise", "music"] = "silence"
    """What short windows borrow in training: silence, or one of its stand-ins."""


class Meter:
    """Scores a trainer's model in place of its validator, and writes each utterance to ``marks.jsonl``.

    Args:
        trainer: Its model is scored.
        data: The test part.
        run: Folder, and number of utterances at each mark.
    """

    def __init__(self, trainer: Trainer, data: Dataset, run: Run) -> None:
        self.loaded, self.labeler, self.dataset = trainer.validator.loaded, trainer.validator.labeler, data
        self.context, self.silence_source = trainer.validator.context, trainer.validator.silence_source
        self._trainer, self._run = trainer, run

    def check_first(self, evaluation: Evaluation) -> None:
        """Check nothing: the corpora are known."""

    def evaluate(self, window: Window = "full") -> Evaluation:
        """Score the model as it is now; at the end also in short windows, with silence lent to them and without."""
        step, total = self._trainer.state.step, self._trainer.total_steps
        limit = self._run.tested if step == total else self._run.marks
        parts = self.score(window, limit)
        mark = {"step": step, window: describe_rows(parts)}
        if step == total:
            for other in WINDOWS_AT_END:
                mark[other] = describe_rows(self.score(other, limit))
        with (self._run.folder / "marks.jsonl").open("a") as file:
            file.write(json.dumps(mark) + "\n")
        evaluation = finish_evaluation(parts, EvaluationSettings(window=window))
        print(f"{self._run.folder} step {step}: WER {evaluation.wer:.2%}, loss {evaluation.loss:.4f}", flush=True)
        return evaluation

    def score(self, window: Window, limit: int) -> list[EvaluationPart]:
        """Return loss and hypothesis of each utterance alone."""
        source = self.silence_source
        if window == "borrowed" and source is None:
            source = find_silence_source(self._trainer.corpora.training).waveform
        settings = EvaluationSettings(
            window=window, max_new_tokens=MAX_NEW_TOKENS, dtype=self.context.machine.dtype, silence_source=source
        )
        model, batches = self.loaded.model, open_evaluation(self.dataset, batch_size=1, limit=limit)
        was_training = model.training
        model.eval()
        evaluator = BatchEvaluator(self.loaded, self.labeler, settings)  # once, since it copies all weights
        parts = [evaluator.evaluate(batch) for batch in batches]
        model.train(was_training)
        return parts


def describe_rows(parts: list[EvaluationPart]) -> list[Row]:
    """Return key, errors, words, summed loss and tokens of each utterance."""
    scores = {
        row.key: row.words for row in finish_evaluation(parts, EvaluationSettings(window="full")).score.utterances
    }
    rows = []
    for part in parts:
        key = part.utterances[0].key
        rows.append({
            "key": key, "errors": scores[key].errors, "words": scores[key].num_reference,
            "loss": part.loss_sum, "tokens": part.num_tokens,
        })  # fmt: skip
    return rows


def refresh_rarely(
    encode: Callable[[GlobalBatch], SilenceStates | None], every: int
) -> Callable[[GlobalBatch], SilenceStates | None]:
    """Return a replacement for ``encode`` that computes anew every so many calls, and repeats itself between.

    Args:
        encode: Returns the silence of a step; None where no window of the step is short.
        every: Calls; 0: computes once.
    """
    kept: SilenceStates | None = None
    calls = 0

    def encode_rarely(batch: GlobalBatch) -> SilenceStates | None:
        nonlocal kept, calls
        if kept is None or (every and calls % every == 0):
            kept = encode(batch)
        calls += 1
        return kept

    return encode_rarely


def learn_constants(model: Any, corpora: Corpora, config: TrainConfig) -> LearnedSilence:
    """Add constants to what is trained of a model: they begin as the mean of the silence that it would borrow."""
    source = find_silence_source(corpora.training, config).waveform
    learned = LearnedSilence(model, SpeechLoss(model).encode_silence(source))
    model.add_module("learned_silence", learned)  # so that checkpoints and the norm of the gradient have them
    return learned


def lend(run: Run) -> AbstractContextManager[None]:
    """Let the short windows of a run borrow its background, if it has one."""
    if run.lends in ("noise", "music"):
        return lend_background({"noise": make_noise, "music": make_music}[run.lends])
    return nullcontext()


def make_run(run: Run, model: str) -> None:
    """Train from where the run stands to its end; keep marks and cost, but not the weights.

    Raises:
        StopRequested: SIGTERM or Ctrl-C; the same call goes on.
    """
    if (run.folder / "run.json").is_file():
        return
    (run.folder / "train").mkdir(parents=True, exist_ok=True)
    config = resolve_config(replace_settings(TrainConfig(), {**run.settings, "model": model}))
    folder, clock = RunFolder(path=run.folder / "train"), StepClock()
    with open_machine(config.compute) as machine, catch_stop_signals() as request:
        context = RunContext(config=config, folder=folder, machine=machine, request=request, progress=clock)
        corpora = open_corpora(run.data, config)
        claim_run(folder, config, corpora.training, corpora.eval, write=True)
        loaded, labeler = load_checked(context, corpora)
        learned = learn_constants(loaded.model, corpora, config) if run.lends == "constants" else None
        trainer = Trainer(context, corpora, loaded, labeler)
        trainer.validator = Meter(trainer, corpora.eval, run)  # type: ignore[assignment]
        if learned is not None:
            learn_faster(trainer.train_step.trainable.optimizer, learned)
            trainer.train_step._encode_silence = lambda _: learned  # type: ignore[method-assign, assignment, return-value]
        if run.refresh != 1:
            step = trainer.train_step
            step._encode_silence = refresh_rarely(step._encode_silence, run.refresh)  # type: ignore[method-assign]
        try:
            with trainer.log, pause_garbage_collector(), lend(run):
                trainer.train()
        finally:
            with (run.folder / "cpu_seconds.txt").open("a") as file:  # one line for each process that worked on the run
                file.write(f"{clock.cpu_seconds}\n")
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    result = {
        "steps": trainer.total_steps,
        "mean_window_seconds": sum(line["padded_seconds"] for line in trained)
        / sum(line["utterances"] for line in trained),
        "cpu_seconds": sum(map(float, (run.folder / "cpu_seconds.txt").read_text().split())),
        "settings": {name: value for name, value in run.settings.items() if name != "threads"},
        "refresh": run.refresh,
        "lends": run.lends,
        "watch": [line for line in lines if line["kind"] == "watch"],
    }
    (run.folder / "run.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder.path)
    print(run.folder.name, result, flush=True)
