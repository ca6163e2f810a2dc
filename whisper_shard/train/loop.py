"""The training loop, to be read from top to bottom like a recipe.

Open data and model; resume from the last checkpoint, or score the model as it came; then, batch by batch: make a step,
log, evaluate, save; stop at the end, early, or when asked; finally restore the best weights, score them in 30 s windows
and in short ones, and save model and processor together.

The result of a run is a function of data, settings and seed: order, windows, dropout and augmentation are drawn by
position in the run. On a CPU a killed and resumed run ends with the same bits as one that was left alone.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.presence import check_shards
from whisper_shard.errors import ConfigError, StateError, StopRequested
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.score.evaluation import Evaluation
from whisper_shard.storage.location import parse_location
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import Loader, open_loader
from whisper_shard.stream.resume import PlanState
from whisper_shard.train.build import build_trainable, pause_garbage_collector, resolve_config
from whisper_shard.train.data import Corpora, open_corpora
from whisper_shard.train.events import AlreadyOver, Progress, Resumed, ignore_event
from whisper_shard.train.finalize import TrainingEnd, finalize_run
from whisper_shard.train.global_batch import GlobalBatch, Requests
from whisper_shard.train.progress import ProgressReporter
from whisper_shard.train.ranks import barrier
from whisper_shard.train.run.checkpointer import Checkpointer
from whisper_shard.train.run.context import RunContext, open_machine
from whisper_shard.train.run.folder import RunFolder, TrainReport, claim_run, read_report, sole_trainer
from whisper_shard.train.run.metrics import MetricsLog
from whisper_shard.train.run.remote import RemoteRun, hold_remote_run
from whisper_shard.train.run.state import RunState
from whisper_shard.train.schedule import cosine_factor, count_warmup_steps
from whisper_shard.train.signals import catch_stop_signals, stop_error
from whisper_shard.train.start import build_gap_meter, build_train_step, load_checked, report_start
from whisper_shard.train.step import StepResult
from whisper_shard.train.trackers import track
from whisper_shard.train.validator import Validator, evaluate_others
from whisper_shard.train.window_gap import GapMeter, current_full_share, describe_too_little_memory, judge_gap


def train_model(
    dataset: Path | str, run: Path | str, config: TrainConfig, progress: Progress = ignore_event
) -> TrainReport:
    """Fine-tune a Whisper; call it again with the same arguments to resume a run that was stopped or killed.

    Args:
        dataset: A training dataset, or a folder with ``train`` and ``eval`` in it; a local path or a URL.
        run: Folder of the run, created if missing: checkpoints, metrics, and in the end the model; a local path, or a
            URL of object storage.
        config: The settings.
        progress: Called with each event, on rank 0.

    Raises:
        DatasetError: Training or evaluation data is missing, damaged or empty.
        ModelError: The model cannot be loaded.
        ConfigError: Settings that do not work with this model, machine or installation.
        StateError: The run folder belongs to a run with other data, settings or model, or is damaged.
        TrainingError: Evaluation data that is empty or also in the training set, texts too long for the decoder,
            damaged weights, losses that are not finite, memory too small for one utterance, or another rank is gone.
        StopRequested: SIGTERM, SIGHUP or Ctrl-C; everything is saved.
        EnvironmentFault: The disk is full, or a loader process died.
    """
    if config.saving.dry_run:
        raise ConfigError("dry_run: train_model trains; call try_training of whisper_shard.train.dry_run instead")
    began = time.perf_counter()
    config = resolve_config(config)
    location = parse_location(run)
    remote = None if location.is_local else RemoteRun(location)
    folder = RunFolder(path=location.path) if remote is None else RunFolder(path=remote.folder, url=str(location))
    with (
        open_machine(config.compute) as machine,
        catch_stop_signals(announces=machine.ranks.is_first) as request,
    ):
        context = RunContext(config=config, folder=folder, machine=machine, request=request, progress=progress)
        corpora = open_corpora(dataset, config)
        check_shards((*corpora.training, *corpora.evaluated))
        with hold_remote_run(context, remote) as report_event, sole_trainer(folder, machine.ranks):
            context = replace(context, progress=report_event)
            changes = claim_run(folder, config, corpora.training, corpora.eval, write=machine.ranks.is_first)
            barrier(machine.ranks)  # an extended run is no longer finished, and all ranks must see that
            if (report := read_report(folder)) is not None:
                if machine.ranks.is_first:
                    progress(AlreadyOver(run=folder.shown))
                return report
            loaded, labeler = load_checked(context, corpora)
            with track(context) as track_event:
                context = replace(context, progress=track_event)
                trainer = Trainer(context, corpora, loaded, labeler, changes)
                with trainer.log, trainer.checkpointer.writer, pause_garbage_collector():
                    end = trainer.train()
                    with trainer.train_step.trainable.whole_weights():
                        return finalize_run(
                            context, end, trainer.validator, trainer.reporter, corpora=corpora, began=began
                        )


class Trainer:
    """Trains one run from where it stands to its end.

    Args:
        context: Settings, folder, machine, stop request and progress callback.
        corpora: Training and evaluation data.
        loaded: The model.
        labeler: Turns texts into labels and tokens into texts.
        changes: Settings that differ from those the run began with, in words.

    Raises:
        StateError: The run has made more steps than it shall have.
    """

    def __init__(
        self,
        context: RunContext,
        corpora: Corpora,
        loaded: LoadedWhisper,
        labeler: Labeler,
        changes: Sequence[str] = (),
    ) -> None:
        config, machine = context.config, context.machine
        self.context = context
        self.config = config
        self.corpora = corpora
        trainable = build_trainable(loaded, config, machine)
        planner = self._open_loader(None)
        self._steps_per_epoch = planner.steps_per_epoch
        self.total_steps = config.optimizer.max_steps or config.optimizer.epochs * self._steps_per_epoch
        self._warmup_steps = count_warmup_steps(config.optimizer.warmup, self.total_steps)
        self.train_step, self._silence = build_train_step(
            trainable, corpora, labeler, config, machine, total_steps=self.total_steps
        )
        silence_source = self._silence.waveform if self._silence else None
        self.validator = Validator(
            context=context,
            loaded=loaded,
            trainable=trainable,
            dataset=corpora.eval,
            labeler=labeler,
            silence_source=silence_source,
        )
        self.checkpointer = Checkpointer(
            context=context,
            trainable=trainable,
            base=loaded.fingerprint,
            silence=self._silence.fingerprint if self._silence else "",
        )
        warnings: list[str] = []
        # Restored after everything is built, since building draws from the random generators; and before the metrics
        # are opened, since that removes the lines of steps that will be made again.
        self._restored = self.checkpointer.restore(warnings.append)
        self.state = self._restored.state if self._restored else RunState()
        if self.state.step > self.total_steps:
            raise StateError(
                f"{context.folder.shown}: the run has made {self.state.step} steps already, and is to end after "
                f"{self.total_steps}; raise --epochs or --max-steps"
            )
        if config.saving.extend and self.state.step < self.total_steps and self._is_finished():
            self.state.worse_evaluations = 0  # it had stopped early, and would do so again at once
        self.train_step.restore_limit(self.state.pass_limit)
        self.train_step.set_full_share(current_full_share(self.state, config.window))
        self._gap_meter = build_gap_meter(self.train_step, self._silence)
        self.log = MetricsLog(
            context.folder.path,
            step=self.state.step if self._restored else -1,
            is_first=machine.ranks.is_first,
            tensorboard=config.saving.tensorboard,
        )
        self.reporter = ProgressReporter(
            context, self.state, self.log, total_steps=self.total_steps, steps_per_epoch=self._steps_per_epoch
        )
        self.last_evaluation: Evaluation | None = None
        self._pending: StepResult | None = None
        self._agreed = Requests()
        self._lr = 0.0
        self._last_save = time.monotonic()
        resumed = None
        if self._restored is not None:
            resumed = Resumed(step=self.state.step, folder=self._restored.folder, changes=tuple(changes))
        with trainable.whole_weights():
            report_start(
                self.reporter,
                corpora,
                self.train_step,
                self.validator,
                planner,
                silence=self._silence,
                resumed=resumed,
                warnings=warnings,
            )

    def train(self) -> TrainingEnd:
        """Train until the last step or until WER stops improving.

        Raises:
            StopRequested: A signal asked to stop; everything is saved.
        """
        loader = self._open_loader(self._restored.plan if self._restored else None)
        if self._restored is None or self.state.evaluation_pending:
            self._maybe_evaluate(loader, None)
        for batch in self._batches(loader):
            self._make_step(batch)
            is_saved = self._after_step(batch, loader)
            if self._agreed.stop:
                self._stop(batch, loader, is_saved=is_saved)
            if self._is_finished():
                break
        self._report_saved(wait=True)
        barrier(self.context.machine.ranks)  # all ranks read what rank 0 has written
        return TrainingEnd(
            state=self.state,
            stopped="early" if self.state.step < self.total_steps else "steps",
            last_evaluation=self.last_evaluation,
            average=self.train_step.trainable.average,
        )

    def _batches(self, loader: Loader) -> Iterator[Batch]:
        """Yield batches, none if the run is finished already, and measure how long each was waited for."""
        if self._is_finished():
            return
        batches = iter(loader)
        try:
            while True:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                self.reporter.add_wait(waited)
                yield batch
        finally:
            loader.close()

    def _make_step(self, batch: Batch) -> None:
        """Make one optimizer step.

        On a GPU the numbers of a step are read only after the next one is under way: reading them at once would leave
        the device idle while the host prepares that step. On a CPU they are there immediately.
        """
        began = time.perf_counter()
        # Only the device knows whether a step whose result is not read yet has changed the weights, and so advanced the
        # schedule: it chooses between two learning rates.
        updates, is_open = self.state.updates, self._pending is not None
        result = self.train_step(
            batch,
            step=self.state.step,
            lr=self._lr_after(updates + is_open),
            lr_after_skip=self._lr_after(updates) if is_open else None,
            requests=self._requests(),
        )
        self._read_pending()
        self._lr = self._lr_after(self.state.updates)
        self._pending = result
        if result.ready is None:
            self._read_pending()
        self.state.step += 1
        self.last_evaluation = None
        # Ranks act only on what they have agreed on in this step's exchange: if each followed its own signal or clock,
        # one would save or leave while the others wait for its gradients.
        self._agreed = result.global_batch.requests
        if self._gap_meter and self.state.step % self.config.window.watch_every == 0:
            self._compare_windows(self._gap_meter, result.global_batch)
        self.reporter.add_step(batch, time.perf_counter() - began)

    def _compare_windows(self, meter: GapMeter, global_batch: GlobalBatch) -> None:
        """Log the losses in 30 s windows and in short ones, and pad more utterances to 30 s if that is configured."""
        try:
            gap = meter.measure(global_batch, self.train_step.limit)
        except MemoryError:
            self._gap_meter = None
            self.reporter.warn(describe_too_little_memory(self.state, self.config.window))
            return
        if gap is None:
            return
        warning = judge_gap(gap, self.state, self.config.window)
        share = current_full_share(self.state, self.config.window)
        self.train_step.set_full_share(share)
        self.reporter.log_gap(gap, full_share=share, warning=warning)

    def _lr_after(self, updates: int) -> float:
        return self.config.peak_lr * cosine_factor(
            updates,
            warmup_steps=self._warmup_steps,
            total_steps=self.total_steps,
            min_factor=self.config.optimizer.min_lr_factor,
        )

    def _after_step(self, batch: Batch, loader: Loader) -> bool:
        """Log, close the epoch, evaluate and save where it is time; return whether this step was saved."""
        step = self.state.step
        self._report_saved()
        if step >= self.total_steps or step % self.config.saving.log_every == 0:
            self._read_pending()
            self.reporter.log_interval(self._lr, loader.counts)
        if step % self._steps_per_epoch == 0:
            self.reporter.log_epoch(batch.epoch, loader.planned(batch.epoch))
        return self._maybe_evaluate(loader, batch)

    def _maybe_evaluate(self, loader: Loader, batch: Batch | None) -> bool:
        """Evaluate and save where it is time; return whether this step was saved.

        Raises:
            StopRequested: A signal came during the evaluation; the step is saved, and a resumed run evaluates again.
        """
        step, save_every = self.state.step, self.config.saving.save_every
        eval_every = self.config.evaluation.eval_every or self._steps_per_epoch
        progress_every = self.config.evaluation.progress_every
        is_evaluation = step >= self.total_steps or step % eval_every == 0
        try:
            is_best = is_evaluation and self._evaluate()
            if progress_every and step % progress_every == 0 and not is_evaluation:
                self._estimate_wer()
        except StopRequested:
            self.state.evaluation_pending = True
            self._save(loader, batch)
            self._report_saved(wait=True)
            raise
        self.state.evaluation_pending = False
        is_due = step % save_every == 0 if save_every else is_evaluation
        if is_due or is_best or self._is_finished() or self._agreed.save:
            self._save(loader, batch)
            return True
        return False

    def _evaluate(self) -> bool:
        """Score the model in 30 s windows; return whether it is the best so far.

        Raises:
            TrainingError: See `Validator.check_first`.
        """
        self._read_pending()
        evaluation = self.validator.evaluate("full")
        # All before anything is counted: where a signal stops one of them, a resumed run makes all of them again.
        others = evaluate_others(self.validator, self.corpora.also)
        gc.collect()  # the collector is off: readers of the evaluation that refer to each other would add up
        if self.state.step == 0:
            self.validator.check_first(evaluation)
            self.state.wer_before = evaluation.wer
            self.state.also_before = {name: other.wer for name, other in others.items()}
        is_best = self.state.record_evaluation(evaluation.wer, evaluation.loss)
        self.reporter.log_evaluation(evaluation, is_best=is_best)
        for name, other in others.items():
            self.reporter.log_evaluation(other, is_best=False, kind="also", dataset=name)
        self.last_evaluation = evaluation
        self.checkpointer.save_snapshot(self.state, self.config.evaluation.average)
        return is_best

    def _estimate_wer(self) -> None:
        """Log an estimate of the WER between two evaluations; nothing depends on it."""
        self._read_pending()
        self.reporter.log_evaluation(self.validator.estimate_wer(), is_best=False, kind="progress")

    def _save(self, loader: Loader, batch: Batch | None) -> None:
        """Begin to write a checkpoint from which training goes on after ``batch``; None: at the beginning."""
        self._read_pending()
        self.state.pass_limit = self.train_step.describe_limit()
        plan = loader.start if batch is None else loader.state_after(batch)
        self.checkpointer.save(self.state, plan)
        self._last_save = time.monotonic()

    def _report_saved(self, *, wait: bool = False) -> None:
        """Report the checkpoints that have become complete; with ``wait``, those being written too."""
        if wait:
            self.checkpointer.writer.wait()
        for saved in self.checkpointer.writer.take_written():
            self.reporter.report(saved)

    def _stop(self, batch: Batch, loader: Loader, *, is_saved: bool) -> None:
        """Save and stop, because a signal asked for it.

        Raises:
            StopRequested: Always.
        """
        if not is_saved:
            self._save(loader, batch)
        self._report_saved(wait=True)
        when = f"after step {self.state.step} of {self.total_steps}"
        raise stop_error(self._agreed.stop, self.context.folder.shown, when)

    def _read_pending(self) -> None:
        """Read the result of the last step if that has not been done: all that is logged or saved includes it."""
        if self._pending is not None:
            result, self._pending = self._pending, None
            self.reporter.add_result(result)

    def _is_finished(self) -> bool:
        is_worse = 0 < self.config.evaluation.patience <= self.state.worse_evaluations
        return is_worse or self.state.step >= self.total_steps

    def _requests(self) -> Requests:
        is_time = time.monotonic() - self._last_save > 60.0 * self.config.saving.save_minutes
        return Requests(stop=self.context.request.signal, save=is_time)

    def _open_loader(self, plan: PlanState | None) -> Loader:
        machine = self.context.machine
        return open_loader(
            self.corpora.training,
            self.config.stream,
            state=plan,
            rank=machine.ranks.rank,
            world=machine.ranks.world,
            pin_memory=machine.device.type == "cuda",
        )
