"""The recorder: what came of steps and evaluations becomes counters, lines of metrics and events."""

from dataclasses import asdict
from typing import Any

import numpy as np

from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import TrainingError
from whisper_shard.score.evaluate import Evaluation
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.delivery import Planned
from whisper_shard.train.events import Delivered, Evaluated, Event, Progress, Skipped, Stepped, Warned
from whisper_shard.train.global_batch import Share
from whisper_shard.train.ranks import Ranks, gather_texts
from whisper_shard.train.run.metrics import MetricsLog
from whisper_shard.train.run.state import Ledger, RunState, Window
from whisper_shard.train.step import Outcome
from whisper_shard.utterance import SAMPLE_RATE

_NAMED_KEYS = 8  # as many as fit into a line


class Recorder:
    """Keeps the run's counters and tells the outside; times are its own and are not saved.

    Args:
        state: Counters, changed in place.
        log: Where lines go.
        progress: Told of every event, on rank 0.
        config: The knobs.
        ranks: Who takes part.
        total_steps: Optimizer steps of the run.
        steps_per_epoch: Optimizer steps of a pass over the data.
    """

    def __init__(
        self,
        state: RunState,
        *,
        log: MetricsLog,
        progress: Progress,
        config: TrainConfig,
        ranks: Ranks,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.state = state
        self._log = log
        self._progress = progress
        self._config = config
        self._ranks = ranks
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._seconds = 0.0
        self._wait_seconds = 0.0
        self._timed: Window = Window()

    def tell(self, event: Event) -> None:
        """Hand an event to the outside."""
        if self._ranks.is_first:
            self._progress(event)

    def add_time(self, seconds: float, *, waited: float) -> None:
        """Note how long a step took, and how much of it was waiting for its batch."""
        self._seconds += seconds
        self._wait_seconds += waited

    def settle(self, outcome: Outcome) -> None:
        """Take in the numbers of a step, which may mean to wait for the device.

        Raises:
            TrainingError: Too many steps were not finite.
        """
        loss, norm, skipped = outcome.read()
        share = outcome.share
        for window in (self.state.window, self._timed):
            window.utterances += share.num_utterances
            window.samples += share.num_samples
            window.padded_samples += share.padded_samples
        if share.num_dropped:
            self._tell_dropped(outcome.step + 1, share)
        if skipped:
            self._skip(outcome, loss, norm)
            return
        self.state.updates += 1
        window = self.state.window
        window.steps += 1
        window.loss += loss * share.num_tokens
        window.tokens += share.num_tokens
        window.norm += norm

    def deliver(self, batch: Batch) -> None:
        """Enter a batch into the ledger."""
        self.state.ledger.add(batch)

    def finish_window(self, lr: float) -> None:
        """Write a line of training metrics and begin a new window."""
        window, seconds = self.state.window, max(self._seconds, 1e-9)
        event = Stepped(
            step=self.state.step,
            total_steps=self._total_steps,
            epoch=self.state.step / self._steps_per_epoch,
            loss=window.loss / max(1, window.tokens),
            lr=lr,
            grad_norm=window.norm / max(1, window.steps),
            utterances_per_second=self._timed.utterances / seconds,
            audio_seconds_per_second=self._timed.samples / SAMPLE_RATE / seconds,
            padded_seconds_per_second=self._timed.padded_samples / SAMPLE_RATE / seconds,
            data_wait_share=self._wait_seconds / seconds,
        )
        self._log.write(
            "train",
            self.state.step,
            epoch=event.epoch,
            loss=event.loss,
            lr=lr,
            grad_norm=event.grad_norm,
            utterances=window.utterances,
            audio_seconds=window.samples / SAMPLE_RATE,
            padded_seconds=window.padded_samples / SAMPLE_RATE,
            seconds=self._seconds,
            utterances_per_second=event.utterances_per_second,
            audio_seconds_per_second=event.audio_seconds_per_second,
            padded_seconds_per_second=event.padded_seconds_per_second,
            data_wait_share=event.data_wait_share,
        )
        self.tell(event)
        self.state.window, self._timed = Window(), Window()
        self._seconds = self._wait_seconds = 0.0

    def finish_epoch(self, epoch: int, planned: Planned) -> None:
        """Close the ledger of an epoch and write it down; all ranks must call it together."""
        ledger = self.state.ledger
        ledger.gather(self._ranks)
        event = Delivered(
            epoch=epoch,
            utterances=ledger.delivered,
            audio_seconds=ledger.samples / SAMPLE_RATE,
            skipped=ledger.skipped,
            planned=planned.utterances,
            digest=f"{ledger.delivered_digest:016x}",
            is_complete=ledger.is_complete(planned),
        )
        self._log.write("epoch", self.state.step, **asdict(event))
        self.tell(event)
        self.state.ledger = Ledger()

    def evaluated(self, evaluation: Evaluation, *, is_best: bool, kind: str = "eval") -> None:
        """Write down an evaluation; ``wer_low`` and ``wer_high`` are the ends of the 95 % bootstrap interval."""
        score = evaluation.score
        self._log.write(
            kind,
            self.state.step,
            window=evaluation.window,
            wer=score.wer,
            wer_low=score.interval[0],
            wer_high=score.interval[1],
            cer=score.cer,
            loss=evaluation.loss,
            substitutions=score.substitutions,
            deletions=score.deletions,
            insertions=score.insertions,
            num_reference_words=score.num_reference_words,
            cap_hits=evaluation.cap_hits,
            is_best=is_best,
            seconds=evaluation.seconds,
        )
        self.tell(
            Evaluated(
                step=self.state.step,
                window=evaluation.window,
                wer=score.wer,
                cer=score.cer,
                loss=evaluation.loss,
                cap_hits=evaluation.cap_hits,
                is_best=is_best,
                seconds=evaluation.seconds,
                is_final=kind == "final",
            )
        )

    def note(self, kind: str, **fields: Any) -> None:
        """Write a line of another kind at the present step."""
        self._log.write(kind, self.state.step, **fields)

    def _tell_dropped(self, number: int, share: Share) -> None:
        """Say which packed windows were not learned from; keys are those of the first rank."""
        self._log.write("skip", number, reason="text too long", keys=list(share.dropped), windows=share.num_dropped)
        message = (
            f"step {number}: {share.num_dropped} packed windows have more text than the decoder has room for and were "
            f"not learned from; they begin with {_name_some(list(share.dropped)) or 'utterances of other ranks'}"
        )
        self.tell(Warned(message=message))

    def _skip(self, outcome: Outcome, loss: float, norm: float) -> None:
        """Count a step that was not finite and say which utterances were in it.

        Raises:
            TrainingError: There were too many.
        """
        number = outcome.step + 1
        loss_is_finite = bool(np.isfinite(loss))
        if loss_is_finite and outcome.is_overflow():
            self._log.write("skip", number, reason="fp16 overflow")
            self.tell(Skipped(step=number, keys=(), reason="fp16 overflow"))
            return
        self.state.nonfinite += 1
        reason = "gradient" if loss_is_finite else "loss"
        keys = gather_texts(outcome.faulty_keys() or [key for key in outcome.share.batch.keys if key], self._ranks)
        self._log.write("skip", number, reason=reason, keys=keys)
        self.tell(Skipped(step=number, keys=tuple(keys), reason=reason))
        if self.state.nonfinite >= self._config.max_nonfinite:
            value = norm if loss_is_finite else loss
            raise TrainingError(
                f"step {number}: the {reason} is {value:g} with utterances {_name_some(keys)}; skipped steps so far: "
                f"{self.state.nonfinite}, --max-nonfinite is {self._config.max_nonfinite}: look at these utterances, "
                "or lower --lr"
            )


def _name_some(keys: list[str]) -> str:
    rest = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
    return ", ".join(keys[:_NAMED_KEYS]) + rest
