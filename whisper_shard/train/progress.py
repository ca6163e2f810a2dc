"""Results of steps and evaluations become counters, lines of metrics and events."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from whisper_shard.dataset.sources.protocol import SourceCounts
from whisper_shard.errors import TrainingError
from whisper_shard.score.evaluation import EvaluatedUtterance, Evaluation
from whisper_shard.score.outputs import is_invented
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.delivery import Planned
from whisper_shard.train.events import (
    FP16_OVERFLOW,
    NO_UTTERANCE,
    Advanced,
    Delivered,
    Estimated,
    Evaluated,
    Event,
    GapMeasured,
    Skipped,
    Stepped,
    Warned,
)
from whisper_shard.train.global_batch import GlobalBatch
from whisper_shard.train.pace import Pace
from whisper_shard.train.ranks import gather_texts
from whisper_shard.train.run.context import RunContext
from whisper_shard.train.run.metrics import MetricsLog
from whisper_shard.train.run.page import NUM_SAMPLES, write_run_page
from whisper_shard.train.run.state import EpochLedger, LogInterval, RunState
from whisper_shard.train.step import StepResult
from whisper_shard.train.window_gap import WindowGap
from whisper_shard.utterance import SAMPLE_RATE

ESTIMATED_AFTER = 4
"""Steps after which it is reported how long the run will take."""
_NAMED_KEYS = 8  # as many as fit into a line


class ProgressReporter:
    """Counts what happens in a run, writes it to the metrics and reports it as events.

    Times are counted here and not in the state: they are of this process and never saved.

    Args:
        context: Settings, ranks and the progress callback.
        state: Counters, changed in place.
        log: The metrics file.
        total_steps: Optimizer steps of the run.
        steps_per_epoch: Optimizer steps of one pass over the data.
    """

    def __init__(
        self, context: RunContext, state: RunState, log: MetricsLog, *, total_steps: int, steps_per_epoch: int
    ) -> None:
        self.state = state
        self._context = context
        self._log = log
        self.total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._pace = Pace(
            total_steps=total_steps, eval_every=context.config.evaluation.eval_every or max(1, steps_per_epoch)
        )
        self._waited = 0.0  # for the batch of the next step
        self._seconds = 0.0
        self._wait_seconds = 0.0
        self._counts = SourceCounts()
        self._timed = LogInterval()  # of this process only: the saved interval may have begun before a resume

    def report(self, event: Event) -> None:
        """Hand an event to the progress callback, on rank 0."""
        if self._context.machine.ranks.is_first:
            self._context.progress(event)

    def warn(self, message: str) -> None:
        """Log a warning and report it."""
        self.log_line("warning", message=message)
        self.report(Warned(message=message))

    def add_wait(self, seconds: float) -> None:
        """Add the time that was waited for a batch."""
        self._waited += seconds
        self._wait_seconds += seconds

    def add_step(self, batch: Batch, seconds: float) -> None:
        """Enter a batch into the ledger, add the time of its step, and report how far the run is."""
        self.state.ledger.add(batch)
        self._pace.add_step(self._waited + seconds)
        self._seconds += self._waited + seconds
        self._waited = 0.0
        step, remaining = self.state.step, self._pace.remaining_seconds(self.state.step)
        self.report(Advanced(step=step, total_steps=self.total_steps, remaining_seconds=remaining))
        if self._pace.num_steps == ESTIMATED_AFTER and remaining is not None:
            self.report(
                Estimated(
                    remaining_seconds=remaining,
                    steps=self.total_steps - step,
                    step_seconds=self._pace.step_seconds,
                    evaluations=self._pace.evaluations_after(step),
                    evaluation_seconds=self._pace.evaluation_seconds,
                )
            )

    def add_result(self, result: StepResult) -> None:
        """Add the numbers of a step to the sums; waits for the device until the step is over.

        Raises:
            TrainingError: Too many steps were not finite.
        """
        loss, norm, skipped = result.read()
        global_batch = result.global_batch
        for interval in (self.state.log_interval, self._timed):
            interval.utterances += global_batch.num_utterances
            interval.samples += global_batch.num_samples
            interval.padded_samples += global_batch.padded_samples
        if global_batch.num_dropped:
            self._report_dropped(result.step + 1, global_batch)
        if global_batch.num_utterances == 0:
            self._log.write("skip", result.step + 1, reason=NO_UTTERANCE)
            self.report(Skipped(step=result.step + 1, keys=(), reason=NO_UTTERANCE))
            return
        if skipped:
            self._report_skipped(result, loss, norm)
            return
        self.state.updates += 1
        interval = self.state.log_interval
        interval.steps += 1
        interval.loss += loss * global_batch.num_tokens
        interval.tokens += global_batch.num_tokens
        interval.norm += norm

    def log_interval(self, lr: float, counts: SourceCounts) -> None:
        """Write a line of training metrics, report it, and begin a new interval.

        Args:
            lr: Learning rate of the last step.
            counts: What this rank has read from the shards since its loader was opened.
        """
        interval, timed, seconds = self.state.log_interval, self._timed, max(self._seconds, 1e-9)
        event = Stepped(
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=self.state.step / self._steps_per_epoch,
            loss=interval.loss / max(1, interval.tokens),
            lr=lr,
            grad_norm=interval.norm / max(1, interval.steps),
            utterances_per_second=timed.utterances / seconds,
            audio_seconds_per_second=timed.samples / SAMPLE_RATE / seconds,
            padded_seconds_per_second=timed.padded_samples / SAMPLE_RATE / seconds,
            data_wait_share=self._wait_seconds / seconds,
            reads=counts.gets - self._counts.gets,
            mb_read=(counts.num_bytes - self._counts.num_bytes) / 1e6,
        )
        self.log_line(
            "train",
            epoch=event.epoch,
            loss=event.loss,
            lr=lr,
            grad_norm=event.grad_norm,
            utterances=interval.utterances,
            audio_seconds=interval.samples / SAMPLE_RATE,
            padded_seconds=interval.padded_samples / SAMPLE_RATE,
            seconds=self._seconds,
            utterances_per_second=event.utterances_per_second,
            audio_seconds_per_second=event.audio_seconds_per_second,
            padded_seconds_per_second=event.padded_seconds_per_second,
            data_wait_share=event.data_wait_share,
            reads=event.reads,
            mb_read=event.mb_read,
        )
        self.report(event)
        self._counts = counts
        self.state.log_interval, self._timed = LogInterval(), LogInterval()
        self._seconds = self._wait_seconds = 0.0

    def log_epoch(self, epoch: int, planned: Planned) -> None:
        """Compare the ledger of an epoch with the plan, log the result, and begin a new one.

        All ranks must call it together.
        """
        ledger = self.state.ledger
        ledger.gather(self._context.machine.ranks)
        event = Delivered(
            epoch=epoch,
            utterances=ledger.delivered,
            audio_seconds=ledger.samples / SAMPLE_RATE,
            skipped=ledger.skipped,
            planned=planned.utterances,
            digest=f"{ledger.delivered_digest:016x}",
            is_complete=ledger.is_complete(planned),
        )
        self.log_line("epoch", **asdict(event))
        self.report(event)
        self.state.ledger = EpochLedger()

    def log_evaluation(self, evaluation: Evaluation, *, is_best: bool, kind: str = "eval", dataset: str = "") -> None:
        """Log an evaluation; ``wer_low`` and ``wer_high`` are the ends of the 95 % bootstrap interval.

        Args:
            evaluation: What was scored.
            is_best: Whether no earlier one has a lower WER.
            kind: Kind of the line.
            dataset: Name of further evaluation data; empty: those that decide.
        """
        score = evaluation.score
        if evaluation.window == "full":
            self._pace.add_evaluation(evaluation.seconds, dataset)
        num_silent = sum(not row.reference for row in score.utterances)
        num_invented = sum(is_invented(row) for row in score.utterances)
        self.log_line(
            kind,
            **({"dataset": dataset} if dataset else {}),
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
            **({"num_silent": num_silent, "num_invented": num_invented} if num_silent else {}),
            is_best=is_best,
            seconds=evaluation.seconds,
            samples=[
                {"key": sample.key, "reference": sample.reference, "hypothesis": sample.hypothesis}
                for sample in _spread(evaluation.utterances, NUM_SAMPLES)
            ],
        )
        if self._context.machine.ranks.is_first:
            write_run_page(self._context.folder)
        self.report(
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
                dataset=dataset,
                num_silent=num_silent,
                num_invented=num_invented,
            )
        )

    def log_gap(self, gap: WindowGap, *, full_share: float, warning: str) -> None:
        """Log a comparison of 30 s windows with short ones, and its warning, if it has one."""
        numbers = {"loss_full": gap.full, "loss_borrowed": gap.borrowed, "gap": gap.gap, "full_share": full_share}
        # The warning is a part of the line, and no line of its own: a resumed run removes those, and measures no step
        # twice that it has saved.
        message = {"message": warning} if warning else {}
        self.log_line("watch", utterances=gap.utterances, **numbers, **message)
        self.report(GapMeasured(step=self.state.step, utterances=gap.utterances, **numbers))
        if warning:
            self.report(Warned(message=warning))

    def log_line(self, kind: str, **fields: Any) -> None:
        """Write a line of any kind at the current step."""
        self._log.write(kind, self.state.step, **fields)

    def _report_dropped(self, number: int, global_batch: GlobalBatch) -> None:
        """Log and report the packed windows that were left out; keys are those of rank 0."""
        dropped, count = list(global_batch.dropped), global_batch.num_dropped
        self._log.write("skip", number, reason="text too long", keys=dropped, windows=count)
        message = (
            f"step {number}: {count} packed windows have more text than the decoder has room for and were not trained "
            f"on; they begin with {_name_some(dropped) or 'utterances of other ranks'}"
        )
        self.report(Warned(message=message))

    def _report_skipped(self, result: StepResult, loss: float, norm: float) -> None:
        """Count a step that was not finite, and log and report its utterances.

        Raises:
            TrainingError: There were too many.
        """
        number = result.step + 1
        loss_is_finite = math.isfinite(loss)
        # With float16 the scale of the loss is raised until gradients overflow, again and again: that is how the
        # scaler finds the highest one that works. Such a step is neither counted nor the fault of its utterances.
        if loss_is_finite and result.is_overflow():
            self._log.write("skip", number, reason=FP16_OVERFLOW)
            self.report(Skipped(step=number, keys=(), reason=FP16_OVERFLOW))
            return
        self.state.nonfinite += 1
        reason = "gradient" if loss_is_finite else "loss"
        local_keys = [key for key in result.global_batch.local.keys if key]
        keys = gather_texts(result.faulty_keys() or local_keys, self._context.machine.ranks)
        self._log.write("skip", number, reason=reason, keys=keys)
        self.report(Skipped(step=number, keys=tuple(keys), reason=reason))
        limit = self._context.config.optimizer.max_nonfinite
        if self.state.nonfinite >= limit:
            value = norm if loss_is_finite else loss
            raise TrainingError(
                f"step {number}: the {reason} is {value:g} with utterances {_name_some(keys)}; skipped steps so far: "
                f"{self.state.nonfinite}, --max-nonfinite is {limit}: look at these utterances, or lower --lr"
            )


def _name_some(keys: Sequence[str]) -> str:
    rest = f" and {len(keys) - _NAMED_KEYS} more" if len(keys) > _NAMED_KEYS else ""
    return ", ".join(keys[:_NAMED_KEYS]) + rest


def _spread(utterances: Sequence[EvaluatedUtterance], count: int) -> Sequence[EvaluatedUtterance]:
    """Return ``count`` utterances, or all, from everywhere in the order of keys: always the same ones."""
    return utterances[:: max(1, len(utterances) // count)][:count]
