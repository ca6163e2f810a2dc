"""What happens, and is reported, before the first step."""

from collections.abc import Iterable

from whisper_shard.config.train import TrainConfig
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import LoadedWhisper, allow_empty_output, load_whisper
from whisper_shard.stream.loader import Loader
from whisper_shard.train.data import Corpora, check_labels, warn_of_lost_texts
from whisper_shard.train.events import Preparing, Resumed, SilenceChosen, Started, Warned
from whisper_shard.train.forecast import forecast_run
from whisper_shard.train.global_batch import GlobalBatchBuilder
from whisper_shard.train.language import report_language
from whisper_shard.train.progress import ProgressReporter
from whisper_shard.train.run.context import Machine, RunContext
from whisper_shard.train.run.snapshot import Trainable
from whisper_shard.train.silence_source import SilenceSource, find_silence_source
from whisper_shard.train.step import TrainStep
from whisper_shard.train.validator import Validator
from whisper_shard.train.window_gap import GapMeter


def load_checked(context: RunContext, corpora: Corpora) -> tuple[LoadedWhisper, Labeler]:
    """Load the model, and check that its tokens can express all texts, languages and tasks of the data.

    Raises:
        ModelError: The model cannot be loaded.
        TrainingError: See `check_labels`.
    """
    config = context.config
    report_preparing(context, f"loading {config.model}")
    loaded = load_whisper(config.model, dropout=config.regularization.dropout)
    if corpora.num_silent:
        allow_empty_output(loaded.model)
    labeler = Labeler(loaded.tokenizer, config.language, config.task, is_multilingual=loaded.is_multilingual)
    report_preparing(context, "checking languages and lengths of texts")
    for data in corpora.training:
        check_labels(data, labeler, timestamps=config.timestamps > 0)
    for data in corpora.evaluated:
        check_labels(data, labeler)
    return loaded, labeler


def build_train_step(
    trainable: Trainable,
    corpora: Corpora,
    labeler: Labeler,
    config: TrainConfig,
    machine: Machine,
    *,
    total_steps: int,
) -> tuple[TrainStep, SilenceSource | None]:
    """Return what makes the steps of a run, and what its short windows borrow; None: nothing.

    Raises:
        DatasetError: A candidate for the silence source is damaged; see `find_silence_source`.
        TrainingError: All candidates are nearly silent.
    """
    silence = find_silence_source(corpora.training, config) if config.window.borrows_silence else None
    builder = GlobalBatchBuilder(
        labeler=labeler,
        config=config,
        ranks=machine.ranks,
        total_steps=total_steps,
        longest_window=trainable.longest_window,
        teaches_silence=corpora.num_silent > 0,
    )
    source = silence.waveform if silence else None
    return TrainStep(trainable, builder, config, machine, source), silence


def build_gap_meter(train_step: TrainStep, silence: SilenceSource | None) -> GapMeter | None:
    """Return what compares 30 s windows with short ones; None: nothing is borrowed, or nobody wants to know."""
    if silence is None or not train_step.config.window.watch_every:
        return None
    return GapMeter(
        trainable=train_step.trainable,
        builder=train_step.builder,
        machine=train_step.machine,
        silence_source=silence.waveform,
    )


def report_preparing(context: RunContext, what: str) -> None:
    """Report what is under way, on rank 0."""
    if context.machine.ranks.is_first:
        context.progress(Preparing(what=what))


def report_start(
    reporter: ProgressReporter,
    corpora: Corpora,
    train_step: TrainStep,
    validator: Validator,
    planner: Loader,
    *,
    silence: SilenceSource | None,
    resumed: Resumed | None,
    warnings: Iterable[str] = (),
) -> None:
    """Report what the run is going to do, on rank 0.

    Args:
        reporter: Takes the events.
        corpora: Training and evaluation data.
        train_step: Makes the steps.
        validator: Scores the model.
        planner: Knows the lengths of each step.
        silence: What short windows borrow; None: nothing.
        resumed: Where the run goes on; None: it begins.
        warnings: About the checkpoint.

    Raises:
        DatasetError: The index is damaged, or an utterance is.
    """
    context = validator.context
    config, machine = context.config, context.machine
    for message in (*warnings, *warn_of_lost_texts(corpora.training)):
        reporter.report(Warned(message=message))
    if not machine.ranks.is_first:
        return
    reporter.report(
        describe_start(context, corpora, train_step, validator.labeler, planner, total_steps=reporter.total_steps)
    )
    if silence is not None:
        reporter.report(SilenceChosen(key=silence.key, dataset=silence.dataset, seconds=silence.seconds))
    if resumed is not None:
        reporter.log_line("resume")
        reporter.report(resumed)
        return
    report_preparing(context, "hearing which language is spoken")
    for event in report_language(
        validator.loaded, validator.labeler, corpora.eval, config.language, dtype=machine.dtype
    ):
        reporter.report(event)


def describe_start(
    context: RunContext,
    corpora: Corpora,
    train_step: TrainStep,
    labeler: Labeler,
    planner: Loader,
    *,
    total_steps: int,
) -> Started:
    """Return what the run is going to do.

    Args:
        context: Settings and machine.
        corpora: Training and evaluation data.
        train_step: Makes the steps.
        labeler: Turns texts into labels.
        planner: Knows the lengths of each step.
        total_steps: Optimizer steps of the run.
    """
    config, machine = context.config, context.machine
    report_preparing(context, "counting memory and passes")
    forecast = forecast_run(
        train_step.trainable,
        config,
        machine,
        loader=planner,
        dataset=corpora.train,
        labeler=labeler,
        total_steps=total_steps,
    )
    return Started(
        total_steps=total_steps,
        steps_per_epoch=planner.steps_per_epoch,
        train_utterances=sum(data.num_utterances for data in corpora.training),
        silent_utterances=corpora.num_silent,
        eval_utterances=corpora.eval.num_utterances,
        forecast=forecast,
        device=str(machine.device),
        precision=str(machine.dtype).removeprefix("torch."),
        ranks=machine.ranks.world,
        shard=config.compute.shard,
        lr=config.peak_lr,
    )
