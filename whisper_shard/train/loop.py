"""The training loop, read from top to bottom like a recipe.

Open data and model; go on from the last checkpoint, or score the model as it came; then batch by batch learn, log,
evaluate, keep the best, save; stop at the end, early, or when asked; at last restore the best weights, score them in
30 s windows and in short ones, and save model and processor together.

What a run learns is a function of data, settings and seed: order, windows, dropout and augmentation are drawn by place
in the run. On a CPU a killed and resumed run ends with the same bits as one that was left alone.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

from whisper_shard.config.train import TrainConfig
from whisper_shard.errors import StopRequested, TrainingError
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, load_whisper
from whisper_shard.score.evaluate import Evaluation
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import Loader, open_loader
from whisper_shard.stream.resume import PlanState
from whisper_shard.train.build import build_network, build_optimizer, quiet_garbage_collector, resolve_config
from whisper_shard.train.data import Corpora, check_labels, find_donor, open_corpora
from whisper_shard.train.events import AlreadyOver, Progress, Resumed, Saved, Started, Warned, ignore_event
from whisper_shard.train.finalize import Finish
from whisper_shard.train.global_batch import Flags
from whisper_shard.train.progress import Recorder
from whisper_shard.train.run.checkpointer import Keeper, make_scaler
from whisper_shard.train.run.context import Machine, open_machine
from whisper_shard.train.run.folder import RunFolder, TrainReport, claim_run, read_report, sole_trainer
from whisper_shard.train.run.metrics import MetricsLog
from whisper_shard.train.run.state import RunState
from whisper_shard.train.schedule import cosine_factor, count_warmup_steps
from whisper_shard.train.signals import StopRequest, listen_for_stop, stopped_by
from whisper_shard.train.step import Outcome, Stepper
from whisper_shard.train.validator import Examiner


def train_model(dataset: Path, run: Path, config: TrainConfig, progress: Progress = ignore_event) -> TrainReport:
    """Fine-tune a Whisper; call again with the same arguments to go on where a run was stopped or killed.

    Args:
        dataset: A training dataset, or a folder with ``train`` and ``eval`` in it.
        run: Folder of the run, made if missing: checkpoints, metrics, and in the end the model.
        config: The knobs.
        progress: Told of everything that happens, on rank 0.

    Raises:
        DatasetError: Training or evaluation data is missing, damaged or empty.
        ModelError: The model cannot be loaded.
        ConfigError: Settings that cannot be followed.
        StateError: The run folder belongs to a run with other data, settings or model, or is damaged.
        TrainingError: Evaluation data that is empty or known from training, texts too long for the decoder, damaged
            weights, losses that are not finite, memory too small for one utterance, or another rank that is gone.
        StopRequested: SIGTERM or Ctrl-C; all is saved.
        EnvironmentFault: The disk is full, or a loader process died.
    """
    began = time.perf_counter()
    config = resolve_config(config)
    folder = RunFolder(path=run)
    with open_machine(config) as machine, listen_for_stop() as request:
        corpora = open_corpora(dataset, config)
        with sole_trainer(folder, machine.ranks):
            claim_run(folder, config, corpora, write=machine.ranks.is_first)
            if (report := read_report(folder)) is not None:
                if machine.ranks.is_first:
                    progress(AlreadyOver(run=run))
                return report
            loaded, labeler = _load_checked(config, corpora)
            trainer = Trainer(
                folder=folder, corpora=corpora, config=config, machine=machine, request=request, progress=progress,
                loaded=loaded, labeler=labeler,
            )  # fmt: skip
            with trainer.log, quiet_garbage_collector():
                stopped = trainer.train()
                return Finish(
                    folder=folder, examiner=trainer.examiner, recorder=trainer.recorder, config=config,
                    average=trainer.stepper.average, began=began,
                ).conclude(trainer.state, stopped=stopped, last=trainer.last_evaluation)  # fmt: skip


def _load_checked(config: TrainConfig, corpora: Corpora) -> tuple[LoadedWhisper, Labeler]:
    """Load the model, and check that it can be told to say all texts."""
    loaded = load_whisper(config.model, dropout=config.dropout)
    labeler = Labeler(loaded.tokenizer, config.language, config.task, is_multilingual=loaded.is_multilingual)
    for data in corpora.training:
        check_labels(data, labeler, timestamps=config.timestamps > 0)
    check_labels(corpora.eval, labeler)
    return loaded, labeler


class Trainer:
    """One run: its parts, and the steps from where it stands to its end.

    Args:
        folder: The run folder.
        corpora: Training and evaluation data.
        config: The knobs.
        machine: Where, and with whom.
        request: Tells when a signal asks to stop.
        progress: Told of every event.
        loaded: The model.
        labeler: Makes labels and texts.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        corpora: Corpora,
        config: TrainConfig,
        machine: Machine,
        request: StopRequest,
        progress: Progress,
        loaded: LoadedWhisper,
        labeler: Labeler,
    ) -> None:
        self.config = config
        self.corpora = corpora
        self.machine = machine
        self._request = request
        self.network = build_network(loaded, config, machine.device)
        self._steps_per_epoch = self._open_loader(None).steps_per_epoch
        self.total_steps = config.max_steps or config.epochs * self._steps_per_epoch
        self._warmup_steps = count_warmup_steps(config.warmup, self.total_steps)
        donor = find_donor(corpora.train, bad_record=config.bad_record) if config.hears_silence else None
        self.stepper = Stepper(
            self.network,
            build_optimizer(self.network.model, config),
            scaler=make_scaler(machine),
            labeler=labeler,
            config=config,
            ranks=machine.ranks,
            dtype=machine.dtype,
            total_steps=self.total_steps,
            donor=donor,
        )
        self.examiner = Examiner(
            loaded=loaded, dataset=corpora.eval, labeler=labeler, config=config, machine=machine, run=folder.path,
            request=request, progress=progress, donor=donor,
        )  # fmt: skip
        self.keeper = Keeper(folder=folder, stepper=self.stepper, machine=machine, base=loaded.fingerprint)
        warnings: list[str] = []
        self._restored = self.keeper.restore(warnings.append)
        self.state = self._restored.state if self._restored else RunState()
        self.log = MetricsLog(
            folder.path,
            step=self.state.step if self._restored else -1,
            is_first=machine.ranks.is_first,
            tensorboard=config.tensorboard,
        )
        self.recorder = Recorder(
            self.state,
            log=self.log,
            progress=progress,
            config=config,
            ranks=machine.ranks,
            total_steps=self.total_steps,
            steps_per_epoch=self._steps_per_epoch,
        )
        self.last_evaluation: Evaluation | None = None
        self._pending: Outcome | None = None
        self._agreed = Flags()
        self._lr = 0.0
        self._last_save = time.monotonic()
        self._announce(warnings)

    def train(self) -> str:
        """Run to the end; return why it ended: steps or early.

        Raises:
            StopRequested: A signal asked to stop; all is saved.
        """
        loader = self._open_loader(self._restored.plan if self._restored else None)
        if self._restored is None:
            self._evaluate()
            self._save(loader, None)
        elif self.state.owes_evaluation:
            self._judge(loader, None)
        for batch in self._batches(loader):
            self._learn(batch)
            is_saved = self._look_after(batch, loader)
            if self._agreed.stop:
                self._leave(batch, loader, is_saved=is_saved)
            if self._is_over():
                break
        return "early" if self.state.step < self.total_steps else "steps"

    def _batches(self, loader: Loader) -> Iterator[Batch]:
        """Yield batches, none if the run is over already, and note how long each was waited for."""
        if self._is_over():
            return
        batches = iter(loader)
        try:
            while True:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                self.recorder.add_time(waited, waited=waited)
                yield batch
        finally:
            loader.close()

    def _learn(self, batch: Batch) -> None:
        """Make one optimizer step.

        On a GPU the numbers of a step are read while the next one runs, so that nothing waits; on a CPU at once. The
        place in the schedule takes a step whose numbers are not read yet for an update.
        """
        began = time.perf_counter()
        place = self.state.updates + (self._pending is not None)
        self._lr = self.config.lr * cosine_factor(
            place,
            warmup_steps=self._warmup_steps,
            total_steps=self.total_steps,
            min_factor=self.config.min_lr_factor,
        )
        outcome = self.stepper.take(batch, step=self.state.step, lr=self._lr, flags=self._flags())
        self._settle()
        self._pending = outcome
        if outcome.ready is None:
            self._settle()
        self.state.step += 1
        self.last_evaluation = None
        self._agreed = outcome.share.flags
        self.recorder.deliver(batch)
        self.recorder.add_time(time.perf_counter() - began, waited=0.0)

    def _look_after(self, batch: Batch, loader: Loader) -> bool:
        """Log, close epochs, evaluate and save where it is time; return whether this step was saved."""
        step, config = self.state.step, self.config
        if step >= self.total_steps or step % config.log_every == 0:
            self._settle()
            self.recorder.finish_window(self._lr)
        if step % self._steps_per_epoch == 0:
            self.recorder.finish_epoch(batch.epoch, loader.planned(batch.epoch))
        return self._judge(loader, batch)

    def _judge(self, loader: Loader, batch: Batch | None) -> bool:
        """Evaluate and save where it is time; return whether this step was saved.

        Raises:
            StopRequested: A signal came; the step is saved, and the evaluation is begun anew by who goes on.
        """
        step, config = self.state.step, self.config
        ends_epoch = step % self._steps_per_epoch == 0
        is_evaluation = step >= self.total_steps or (step % config.eval_every == 0 if config.eval_every else ends_epoch)
        try:
            is_best = is_evaluation and self._evaluate()
            if config.progress_every and step % config.progress_every == 0 and not is_evaluation:
                self._estimate()
        except StopRequested:
            self.state.owes_evaluation = True
            self._save(loader, batch)
            raise
        self.state.owes_evaluation = False
        is_due = step % config.save_every == 0 if config.save_every else is_evaluation
        if is_due or is_best or self._is_over() or self._agreed.save:
            self._save(loader, batch)
            return True
        return False

    def _evaluate(self) -> bool:
        """Score the model in 30 s windows; return whether it is the best so far.

        Raises:
            TrainingError: See `_check_meaning`.
        """
        self._settle()
        evaluation = self.examiner.examine("full")
        if self.state.step == 0:
            self._check_meaning(evaluation)
            self.state.wer_before = evaluation.wer
        is_best = self.state.judge(evaluation.wer, evaluation.loss)
        self.recorder.evaluated(evaluation, is_best=is_best)
        self.last_evaluation = evaluation
        if self.config.average > 1:
            self.keeper.save_snapshot(self.state, self.config.average)
        return is_best

    def _check_meaning(self, evaluation: Evaluation) -> None:
        """Refuse to train where the first evaluation already says that the others will mean nothing.

        Raises:
            TrainingError: The model is damaged, or there is not a word to compare with.
        """
        if not math.isfinite(evaluation.loss):
            raise TrainingError(
                f"{self.config.model}: before any training its loss on the evaluation data is {evaluation.loss:g}: "
                "its weights are damaged; take another model"
            )
        if evaluation.score.num_reference_words == 0:
            raise TrainingError(
                f"{self.corpora.eval.folder}: its texts have no word once punctuation is dropped, such as "
                f"{evaluation.utterances[0].key}; WER would mean nothing: correct them, or give other data by --eval"
            )

    def _estimate(self) -> None:
        """Estimate the WER between two evaluations; this decides nothing."""
        self._settle()
        self.recorder.evaluated(self.examiner.examine_quickly(), is_best=False, kind="progress")

    def _save(self, loader: Loader, batch: Batch | None) -> None:
        """Write a checkpoint that goes on after ``batch``; None: at the beginning."""
        self._settle()
        plan = loader.start if batch is None else loader.state_after(batch)
        path = self.keeper.save(self.state, plan)
        self._last_save = time.monotonic()
        self.recorder.tell(Saved(step=self.state.step, folder=path))

    def _leave(self, batch: Batch, loader: Loader, *, is_saved: bool) -> None:
        """Save and stop, since a signal asked for it.

        Raises:
            StopRequested: Always.
        """
        if not is_saved:
            self._save(loader, batch)
        when = f"after step {self.state.step} of {self.total_steps}"
        raise stopped_by(self._agreed.stop, self.keeper.folder.path, when)

    def _settle(self) -> None:
        if self._pending is not None:
            outcome, self._pending = self._pending, None
            self.recorder.settle(outcome)

    def _is_over(self) -> bool:
        is_worse = 0 < self.config.patience <= self.state.worse_evaluations
        return is_worse or self.state.step >= self.total_steps

    def _flags(self) -> Flags:
        is_time = time.monotonic() - self._last_save > 60.0 * self.config.save_minutes
        return Flags(stop=self._request.signal, save=is_time)

    def _open_loader(self, plan: PlanState | None) -> Loader:
        ranks = self.machine.ranks
        return open_loader(
            self.corpora.training,
            self.config,
            state=plan,
            rank=ranks.rank,
            world=ranks.world,
            pin_memory=self.machine.device.type == "cuda",
        )

    def _announce(self, warnings: list[str]) -> None:
        tell = self.recorder.tell
        for message in warnings:
            tell(Warned(message=message))
        tell(
            Started(
                total_steps=self.total_steps,
                steps_per_epoch=self._steps_per_epoch,
                train_utterances=sum(data.num_utterances for data in self.corpora.training),
                eval_utterances=self.corpora.eval.num_utterances,
                num_parameters=sum(p.numel() for p in self.stepper.parameters),
                device=str(self.machine.device),
                precision=str(self.machine.dtype).removeprefix("torch."),
                ranks=self.machine.ranks.world,
            )
        )
        if self._restored is not None:
            self.recorder.note("resume")
            tell(Resumed(step=self.state.step, folder=self._restored.folder))
