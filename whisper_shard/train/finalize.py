"""The end of a run: the best weights are restored, perhaps averaged or mixed, scored in both windows, and saved."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from whisper_shard.config.train import TrainConfig
from whisper_shard.model.averaging import MovingAverage, average_states, interpolate_states
from whisper_shard.model.save import save_model_folder
from whisper_shard.model.weights import capture_model, restore_model
from whisper_shard.model.whisper import load_whisper
from whisper_shard.score.evaluate import Evaluation
from whisper_shard.train.events import Warned
from whisper_shard.train.progress import Recorder
from whisper_shard.train.run.checkpoint import checkpoint_path, read_tensors
from whisper_shard.train.run.folder import RunFolder, TrainReport, write_report
from whisper_shard.train.run.state import RunState
from whisper_shard.train.validator import Examiner

BASE_SHARES = (0.25, 0.5)
"""With --interpolate: shares of the base model that are tried. Source: arXiv:2109.01903, where the best lies there."""
_WORSE_ABSOLUTE, _WORSE_RELATIVE = 0.01, 0.2  # beyond both, WERs in the two windows are said to differ
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which weights a run ends with."""

    name: str
    """best, average of N, ema D, or S base."""
    evaluation: Evaluation | None
    """Their score in 30 s windows, if it was measured just now."""
    candidates: Mapping[str, float]
    """WER of all that were tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What is needed to bring a run to its end."""

    folder: RunFolder
    """Where the result goes."""
    examiner: Examiner
    """Scores the model."""
    recorder: Recorder
    """Writes down what comes out."""
    config: TrainConfig
    """The knobs."""
    average: MovingAverage | None
    """Of the weights in training, where asked for."""
    began: float
    """When this call began, by time.perf_counter."""

    def conclude(self, state: RunState, *, stopped: str, last: Evaluation | None) -> TrainReport:
        """Choose the weights, score and save them.

        Args:
            state: Where the run ended.
            stopped: steps or early.
            last: The evaluation of the weights the model has now, if there is one: it need not be done again.
        """
        chosen = self._choose(state, last)
        full = chosen.evaluation or self.examiner.examine("full")
        short = self.examiner.examine("short")
        self._warn(full, short, state)
        report = TrainReport(
            model=str(self.folder.model),
            steps=state.step,
            best_step=state.best_step,
            stopped=stopped,
            wer_before=state.wer_before,
            wer=full.wer,
            wer_interval=full.score.interval,
            wer_short=short.wer,
            cer=full.score.cer,
            loss=full.loss,
            cap_hits=full.cap_hits,
            chosen=chosen.name,
            candidates=chosen.candidates,
            seconds=time.perf_counter() - self.began,
        )
        for evaluation in (full, short):
            self.recorder.evaluated(evaluation, is_best=True, kind="final")
        if self.examiner.machine.ranks.is_first:
            save_model_folder(
                self.examiner.loaded,
                self.folder.model,
                language=self.config.language or None,
                task=self.config.task,
            )
            write_report(self.folder, report)
        return report

    def _choose(self, state: RunState, last: Evaluation | None) -> Choice:
        """Leave the best weights in the model, and say which they are."""
        model = self.examiner.loaded.model
        if state.step != state.best_step or last is None:
            restore_model(model, read_tensors(checkpoint_path(self.folder.checkpoints, state.best_step), "model"))
            last = None
        name, wer, evaluation = "best", state.best_wer, last
        wers = {name: wer}
        weights = best = {key: tensor.clone() for key, tensor in capture_model(model).items()}
        for candidate, tried in self._candidates(state, best):
            restore_model(model, tried)
            found = self.examiner.examine("full")
            wers[candidate] = found.wer
            if found.wer < wer and math.isfinite(found.loss):
                name, wer, evaluation, weights = candidate, found.wer, found, tried
        restore_model(model, weights)
        return Choice(name=name, evaluation=evaluation, candidates=wers)

    def _candidates(self, state: RunState, best: State) -> Iterator[tuple[str, State]]:
        """Yield means of the last checkpoints and of all steps, and mixtures with the base model."""
        steps = [step for step in state.evaluated_steps if step > 0]
        if self.config.average > 1 and len(steps) > 1:
            folders = [checkpoint_path(self.folder.snapshots, step) for step in steps]
            yield f"average of {len(steps)}", average_states(read_tensors(folder, "model") for folder in folders)
        if self.average is not None and state.step > 0:
            yield f"ema {self.config.ema:g}", {**best, **self.average.weights}
        if self.config.interpolate and state.best_step > 0:
            base = self._base_weights(best)
            for share in BASE_SHARES:
                yield f"{share:g} base", interpolate_states(base, best, 1.0 - share)

    def _base_weights(self, best: State) -> State:
        """Return the weights before training; with low-rank updates, those with updates of zero."""
        if self.config.lora_rank:
            return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in best.items()}
        device = self.examiner.machine.device
        base = capture_model(load_whisper(self.config.model).model)
        return {name: tensor.to(device) for name, tensor in base.items()}

    def _warn(self, full: Evaluation, short: Evaluation, state: RunState) -> None:
        if state.best_step == 0:
            self._tell(
                f"no evaluation was better than the {state.wer_before:.2%} WER of the model before training, "
                "so the result is that model; try another --lr, more data or more epochs"
            )
        gap = abs(full.wer - short.wer)
        if gap > _WORSE_ABSOLUTE and gap > _WORSE_RELATIVE * min(full.wer, short.wer):
            advice = (
                "decode this model in 30 s windows, as standard tools do; for short ones train with --beyond nothing"
                if full.wer < short.wer
                else "decode this model in short windows; for those of standard tools train with --beyond silence"
            )
            self._tell(f"WER is {full.wer:.2%} in 30 s windows and {short.wer:.2%} in short ones: {advice}")
        if full.cap_hits:
            self._tell(
                f"{full.cap_hits} of {len(full.utterances)} hypotheses were cut off at {self.config.max_new_tokens} "
                "tokens; raise --max-new-tokens, or look whether the model repeats itself"
            )

    def _tell(self, message: str) -> None:
        self.recorder.note("warning", message=message)
        self.recorder.tell(Warned(message=message))
