"""What a run would do and how long it would take here: some steps are made and timed, and nothing is written."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from whisper_shard.config.train import TrainConfig
from whisper_shard.dataset.presence import check_shards
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import Loader, open_loader
from whisper_shard.train.build import build_trainable, resolve_config
from whisper_shard.train.data import Corpora, open_corpora
from whisper_shard.train.events import Progress, SilenceChosen, Started, ignore_event
from whisper_shard.train.forecast import sample_steps
from whisper_shard.train.global_batch import Requests
from whisper_shard.train.pace import count_evaluations
from whisper_shard.train.run.context import RunContext, open_machine
from whisper_shard.train.run.folder import RunFolder
from whisper_shard.train.signals import catch_stop_signals
from whisper_shard.train.start import build_train_step, describe_start, load_checked, report_preparing
from whisper_shard.train.validator import Validator
from whisper_shard.utterance import SAMPLE_RATE

TIMED_STEPS = 8
"""Steps that are timed, spread over the run; one before them is not, since it allocates and compiles."""
ENOUGH_SECONDS = 60.0
"""No further step is begun after this time."""
TIMED_UTTERANCES = 32
"""Utterances that are evaluated, chosen as by --eval-limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What was measured; the settings and sizes are in `started`."""

    started: Started
    """What the run would do."""
    timed_steps: int
    """Steps that were timed."""
    step_seconds: float
    """Mean time of a step of the run: that of the timed ones, in proportion to the length of their windows."""
    evaluations: int
    """Evaluations of the whole run."""
    timed_utterances: int
    """Utterances that were evaluated."""
    evaluation_seconds: float
    """Time of one evaluation in 30 s windows, of ``also_eval`` as well, in proportion to the utterances."""
    peak_bytes: int | None
    """Most memory that was allocated on the GPU; None on a CPU."""

    @property
    def seconds(self) -> float:
        """Time that the run would take if it does not stop early."""
        steps = self.started.total_steps * self.step_seconds
        return steps + self.evaluations * self.evaluation_seconds


def try_training(dataset: Path | str, config: TrainConfig, progress: Progress = ignore_event) -> DryRun:
    """Make a few steps of a run with a learning rate of 0, evaluate a few utterances, and write nothing.

    Args:
        dataset: See `train_model`.
        config: The settings.
        progress: Called with each event, on rank 0.

    Raises:
        DatasetError: See `train_model`.
        ModelError: See `train_model`.
        ConfigError: See `train_model`.
        TrainingError: See `train_model`.
        StopRequested: SIGTERM, SIGHUP or Ctrl-C.
    """
    config = resolve_config(config)
    with (
        open_machine(config.compute) as machine,
        catch_stop_signals(announces=machine.ranks.is_first) as request,
    ):
        context = RunContext(
            config=config,
            folder=RunFolder(path=Path("(dry run)")),  # never written to; messages name it
            machine=machine,
            request=request,
            progress=progress,
        )
        corpora = open_corpora(dataset, config)
        check_shards((*corpora.training, corpora.eval))
        loaded, labeler = load_checked(context, corpora)
        return _Trial(context, corpora, loaded, labeler).measure()


class _Trial:
    """Everything that a run is built of, but for its folder."""

    def __init__(self, context: RunContext, corpora: Corpora, loaded: LoadedWhisper, labeler: Labeler) -> None:
        config, machine = context.config, context.machine
        self.context, self.corpora = context, corpora
        trainable = build_trainable(loaded, config, machine)
        self.planner = self._open_loader()
        steps_per_epoch = self.planner.steps_per_epoch
        self.total_steps = config.optimizer.max_steps or config.optimizer.epochs * steps_per_epoch
        self.eval_every = config.evaluation.eval_every or steps_per_epoch
        self.train_step, silence = build_train_step(
            trainable, corpora, labeler, config, machine, total_steps=self.total_steps
        )
        source = silence.waveform if silence else None
        limit = min(TIMED_UTTERANCES, config.evaluation.eval_limit or TIMED_UTTERANCES)
        few = replace(context, config=replace(config, evaluation=replace(config.evaluation, eval_limit=limit)))
        self.validator = Validator(
            context=few,
            loaded=loaded,
            trainable=trainable,
            dataset=corpora.eval,
            labeler=labeler,
            silence_source=source,
        )
        self.started = describe_start(
            context, corpora, self.train_step, labeler, self.planner, total_steps=self.total_steps
        )
        if machine.ranks.is_first:
            context.progress(self.started)
            if silence is not None:
                context.progress(SilenceChosen(key=silence.key, dataset=silence.dataset, seconds=silence.seconds))

    def measure(self) -> DryRun:
        machine = self.context.machine
        report_preparing(self.context, "timing steps")
        if machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(machine.device)
        times = list(self._time_steps())
        timed = times[1:] or times  # the first allocates and compiles
        seconds, windows = (sum(column) for column in zip(*timed, strict=True))
        per_step = self.started.forecast.window_seconds
        evaluated = self.validator.evaluate("full")
        self.validator.check_first(evaluated)
        limit = self.context.config.evaluation.eval_limit
        counts = [data.num_utterances for data in (self.corpora.eval, *self.corpora.also.values())]
        whole = sum(min(count, limit or count) for count in counts)
        is_cuda = machine.device.type == "cuda"
        return DryRun(
            started=self.started,
            timed_steps=len(timed),
            step_seconds=seconds / windows * per_step,
            evaluations=1 + count_evaluations(0, total_steps=self.total_steps, eval_every=self.eval_every),
            timed_utterances=len(evaluated.utterances),
            evaluation_seconds=evaluated.seconds / len(evaluated.utterances) * whole,
            peak_bytes=torch.cuda.max_memory_allocated(machine.device) if is_cuda else None,
        )

    def _time_steps(self) -> Iterator[tuple[float, float]]:
        """Yield seconds, and seconds of windows on all ranks, of some steps over the run."""
        device, began = self.context.machine.device, time.perf_counter()
        numbers = sample_steps(self.total_steps, TIMED_STEPS)
        for count, number in enumerate(itertools.chain(numbers[-1:], numbers)):
            if count > 1 and time.perf_counter() - began > ENOUGH_SECONDS:
                return
            batch = self._load(number)
            step_began = time.perf_counter()
            # A learning rate of 0 changes no weight: decay is multiplied by it too.
            result = self.train_step(batch, step=number, lr=0.0, requests=Requests())
            result.read()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield time.perf_counter() - step_began, result.global_batch.padded_samples / SAMPLE_RATE

    def _load(self, number: int) -> Batch:
        epoch, step = divmod(number, self.planner.steps_per_epoch)
        loader = self._open_loader(epoch, step)
        batch = next(iter(loader))
        loader.close()
        return batch

    def _open_loader(self, epoch: int = 0, step: int = 0) -> Loader:
        """Open a loader at a step; without processes of its own, which would start anew for each batch."""
        config, machine = replace(self.context.config.stream, workers=0), self.context.machine
        state = self.planner.start.at(epoch, step) if epoch or step else None
        return open_loader(
            self.corpora.training,
            config,
            state=state,
            rank=machine.ranks.rank,
            world=machine.ranks.world,
            pin_memory=machine.device.type == "cuda",
        )
