"""The end of a run: restore the best weights, try averages and mixtures of them, score both windows, save the model."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from whisper_shard.model.adapters import fold_updates
from whisper_shard.model.averaging import MovingAverage, average_states, interpolate_states
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.sharded import whole_tensor
from whisper_shard.model.weights import load_weights, model_weights
from whisper_shard.model.whisper import load_whisper
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.train.card import write_card
from whisper_shard.train.data import Corpora
from whisper_shard.train.progress import ProgressReporter
from whisper_shard.train.ranks import explain_lost_rank
from whisper_shard.train.run.checkpoint import checkpoint_path, read_tensors
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.folder import TrainReport, write_report
from whisper_shard.train.run.page import write_run_page
from whisper_shard.train.run.state import RunState
from whisper_shard.train.validator import Validator, evaluate_others

BASE_SHARES = (0.25, 0.5)
"""With --interpolate: shares of the base model that are tried. Source: arXiv:2109.01903, where the best lies there."""
_GAP_ABSOLUTE, _GAP_RELATIVE = 0.01, 0.2  # WERs of the two windows that differ by more than both deserve a warning
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEnd:
    """How training ended."""

    state: RunState
    """Counters at the end."""
    stopped: str
    """steps: all steps were made; early: WER did not improve any more."""
    last_evaluation: Evaluation | None
    """Score of the weights that the model has now, if it was measured after the last step."""
    average: MovingAverage | None
    """Moving average of the weights, if configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The weights a run ends with; the model has them."""

    name: str
    """best, average of N, ema D, or S base."""
    evaluation: Evaluation | None
    """Their score in 30 s windows, if it was measured in this process."""
    candidates: Mapping[str, float]
    """WER of all weights that were tried."""


def finalize_run(
    context: RunContext,
    end: TrainingEnd,
    validator: Validator,
    reporter: ProgressReporter,
    *,
    corpora: Corpora,
    began: float,
) -> TrainReport:
    """Choose the best weights, score and save them, and write the report; all weights are whole meanwhile.

    Args:
        context: Settings and folder of the run.
        end: How training ended.
        validator: Scores the model.
        reporter: Logs the final scores.
        corpora: The data, which the model card names.
        began: When this process began the run, by time.perf_counter.

    Raises:
        TrainingError: Another rank is gone.
        StopRequested: A signal during an evaluation; the next call scores again.
    """
    chosen = _choose_weights(context, end, validator)
    full = chosen.evaluation or validator.evaluate("full")
    short = validator.evaluate("short")
    for message in _find_warnings(full, short, end.state, context.config.evaluation.max_new_tokens):
        reporter.warn(message)
    for evaluation in (full, short):
        reporter.log_evaluation(evaluation, is_best=True, kind="final")
    others = evaluate_others(validator, corpora.also)
    for name, evaluation in others.items():
        reporter.log_evaluation(evaluation, is_best=True, kind="final", dataset=name)
    report = TrainReport(
        model=f"{context.folder.shown}/model",
        steps=end.state.step,
        best_step=end.state.best_step,
        stopped=end.stopped,
        wer_before=end.state.wer_before,
        wer=full.wer,
        wer_interval=full.score.interval,
        wer_short=short.wer,
        cer=full.score.cer,
        loss=full.loss,
        cap_hits=full.cap_hits,
        chosen=chosen.name,
        candidates=chosen.candidates,
        seconds=time.perf_counter() - began,
        also={name: (end.state.also_before.get(name), other.wer) for name, other in others.items()},
    )
    if context.machine.ranks.is_first:
        language, task = context.config.language or None, context.config.task
        card = write_card(context, corpora, report, full)
        save_model_folder(validator.loaded, context.folder.model, language=language, task=task, card=card)
        write_report(context.folder, report)
        write_run_page(context.folder)
    return report


def _choose_weights(context: RunContext, end: TrainingEnd, validator: Validator) -> Choice:
    """Try all candidates and leave the weights with the lowest WER in the model."""
    model, state, evaluation = validator.loaded.model, end.state, end.last_evaluation
    if state.step != state.best_step or evaluation is None:
        best_folder = checkpoint_path(context.folder.checkpoints, state.best_step)
        load_weights(model, read_tensors(best_folder, "model"))
        evaluation = None
    name, wer = "best", state.best_wer
    wers = {name: wer}
    weights = best = {key: tensor.clone() for key, tensor in model_weights(model).items()}
    for candidate, tried in _make_candidates(context, end, model, best):
        load_weights(model, tried)
        found = validator.evaluate("full")
        wers[candidate] = found.wer
        if found.wer < wer and math.isfinite(found.loss):
            name, wer, evaluation, weights = candidate, found.wer, found, tried
    load_weights(model, weights)
    return Choice(name=name, evaluation=evaluation, candidates=wers)


def _make_candidates(context: RunContext, end: TrainingEnd, model: Any, best: State) -> Iterator[tuple[str, State]]:
    """Yield means of the last evaluated weights and of all steps, and mixtures with the base model.

    Args:
        context: Settings and folder of the run.
        end: How training ended.
        model: Is given other weights on the way.
        best: The best weights.
    """
    config, state = context.config.evaluation, end.state
    steps = [step for step in state.evaluated_steps if step > 0]
    if config.average > 1 and len(steps) > 1:
        folders = [checkpoint_path(context.folder.snapshots, step) for step in steps]
        yield f"average of {len(steps)}", average_states(_read_folded(model, folder) for folder in folders)
    if end.average is not None and state.step > 0:
        with explain_lost_rank(context.machine.ranks):
            means = {name: whole_tensor(mean) for name, mean in end.average.weights.items()}
        yield f"ema {config.ema:g}", {**best, **means}
    if config.interpolate and state.best_step > 0:
        base = _base_weights(context, best)
        for share in BASE_SHARES:
            yield f"{share:g} base", interpolate_states(base, best, 1.0 - share)


def _read_folded(model: Any, folder: Path) -> State:
    """Read the weights of a snapshot through the model, with low-rank updates merged."""
    load_weights(model, read_tensors(folder, "model"))
    return fold_updates(model)


def _base_weights(context: RunContext, best: State) -> State:
    """Return the weights before training; with LoRA, those whose adapters add nothing."""
    if context.config.regularization.lora_rank:
        return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in best.items()}
    base = model_weights(load_whisper(context.config.model).model)
    return {name: tensor.to(context.machine.device) for name, tensor in base.items()}


def _find_warnings(full: Evaluation, short: Evaluation, state: RunState, max_new_tokens: int) -> Iterator[str]:
    """Yield what a user should know about the result."""
    if state.best_step == 0:
        yield (
            f"no evaluation was better than the {state.wer_before:.2%} WER of the model before training, "
            "so the result is that model; try another --lr, more data or more epochs"
        )
    gap = abs(full.wer - short.wer)
    if gap > _GAP_ABSOLUTE and gap > _GAP_RELATIVE * min(full.wer, short.wer):
        advice = (
            "decode this model in 30 s windows, as standard tools do; for short ones train with --beyond nothing"
            if full.wer < short.wer
            else "decode this model in short windows; for those of standard tools train with --beyond silence"
        )
        yield f"WER is {full.wer:.2%} in 30 s windows and {short.wer:.2%} in short ones: {advice}"
    if full.cap_hits:
        yield (
            f"{full.cap_hits} of {len(full.utterances)} hypotheses were cut off at {max_new_tokens} tokens; raise "
            "--max-new-tokens, or check whether the model repeats itself"
        )
