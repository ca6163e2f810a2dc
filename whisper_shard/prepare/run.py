"""A corpus becomes datasets: plan, shards, receipts, index; through any crash, in a stream of events.

Everything a run needs to go on after a kill lies in OUT/.prepare: the plan, and one receipt for each finished shard.
"""

import math
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from whisper_shard.audio.members import ENCODERS
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.toml import dump_config
from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.prepare.assemble import finish_split
from whisper_shard.prepare.events import Event, Note, PlanMade, ShardFinished, SplitSize, StepObserver
from whisper_shard.prepare.manifests.formats import read_manifest
from whisper_shard.prepare.output import forget, sole_writer, sweep
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.prepare.plan import (
    PLAN_NAME,
    ROW_OVERHEAD_BYTES,
    Plan,
    SplitPlan,
    check_manifest,
    choose_shard_rows,
    first_rows,
    open_plan,
    rank_rows,
    sample_rows,
    split_ranks,
    spool_manifest,
    write_plan,
)
from whisper_shard.prepare.progress import Ledger, as_done, as_progress, check_kept, check_rejects, enter_receipt
from whisper_shard.prepare.receipts import find_staleness, read_receipt
from whisper_shard.prepare.task import ProbeResult, RowProbe, ShardResult, Task, probe_rows, run_limits, write_shard
from whisper_shard.prepare.workers.heartbeat import Status
from whisper_shard.prepare.workers.pool import Workers, count_cores, open_workers
from whisper_shard.prepare.workers.supervisor import Tick, supervise
from whisper_shard.storage.atomic import atomic_file, ignore_step

PROBE_ROWS = 8
"""Rows a task when rows are only looked at."""
MAX_STALE_NOTES = 5


def prepare_corpus(
    corpus: Path, out: Path, config: PrepareConfig, *, on_step: StepObserver = ignore_step
) -> Iterator[Event]:
    """Prepare a corpus, from the beginning or from where an earlier run was stopped.

    Args:
        corpus: The manifest, a CSV file.
        out: Folder for the datasets ``train`` and ``eval``; made if need be.
        config: Knobs.
        on_step: Told of every commit step; must be picklable.

    Yields:
        PlanMade, then Progress, ShardFinished and Note as they come, then Done.

    Raises:
        ManifestError: The manifest cannot be used, no row of it can, or too many rows are rejected.
        ConfigError: A step that does not exist, or an output that is no folder.
        StateError: The output belongs to another configuration or manifest, or to a run that is still going on.
        EnvironmentFault: The machine failed; the same command goes on from there.
    """
    started = time.monotonic()
    build_pipeline(config)
    corpora = _manifests(corpus, config)
    for manifest in corpora.values():  # before anything is written: a misspelt path leaves no folder behind
        read_manifest(manifest, config)
        if config.rebuild:  # before anything is removed, it must be certain that there is something to put in its place
            check_manifest(manifest, config)
    with sole_writer(out) as state:
        if config.rebuild:
            forget(out, state)
        sweep(out, state)
        with open_workers(state / "workers", config.worker_memory_mb) as workers:
            plan = open_plan(state, out, corpora, config)
            if plan is None:
                if (state / PLAN_NAME).exists():
                    yield Note(
                        message=f"{out}: another version of whisper-shard began it; everything is prepared again"
                    )
                    forget(out, state)
                plan = yield from _make_plan(workers, state, corpora, config, on_step)
            with atomic_file(out / "prepare.toml") as file:
                file.write(dump_config(replace(config, rebuild=False), "prepare").encode())
            ledger = Ledger(num_rows=plan.num_rows, started=started)
            tasks, notes = _find_missing(out, state, plan=plan, config=config, ledger=ledger, on_step=on_step)
            yield from notes
            yield _plan_made(plan, len(tasks), config)
            yield from _write_shards(workers, tasks, config, ledger)
        sweep(out, state)  # a worker that died in this run may have left something, too
        check_kept(corpus, ledger, config)
        totals = {
            split.name: finish_split(
                split, out / split.name, _receipts(state, split), plan=plan, config=config, on_step=on_step
            )
            for split in plan.splits
        }
        shutil.rmtree(state / "workers")
        (state / "workers.log").unlink(missing_ok=True)
    yield as_done(totals, ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a run would do, found out without writing anything."""

    num_rows: int
    """Rows of all manifests."""
    splits: Mapping[str, SplitSize]
    """Rows and shards of each dataset."""
    shard_rows: int
    """Rows a shard."""
    hours: float
    """Estimated length of what will be kept."""
    num_bytes: Mapping[str, int]
    """Estimated bytes of all shards, for each codec."""
    first: tuple[RowProbe, ...]
    """What became of the first rows of the manifest, in order."""
    sampled: tuple[RowProbe, ...]
    """What became of the rows drawn for the estimate."""


def plan_corpus(corpus: Path, config: PrepareConfig, *, num_first: int = 50) -> PlanReport:
    """Lay out the work and prepare a few recordings, as a run would, but keep nothing.

    Args:
        corpus: The manifest.
        config: Knobs.
        num_first: Rows from the beginning of the manifest that are prepared.

    Raises:
        ManifestError: The manifest cannot be used.
        ConfigError: A step that does not exist.
    """
    build_pipeline(config)
    with TemporaryDirectory(prefix="whisper-shard-") as folder:
        state = Path(folder)
        spools = {
            name: spool_manifest(path, state / f"{name}.spool", config)
            for name, path in _manifests(corpus, config).items()
        }
        train = spools["train"]
        drawn = sample_rows(train, rank_rows(train.num_rows, config.seed))
        with open_workers(state / "workers", config.worker_memory_mb) as workers:
            sampled = _returned(probe_sample(drawn, train.corpus, workers, config))
            first = _returned(probe_sample(first_rows(train, num_first), train.corpus, workers, config))
    num_rows = sum(spool.num_rows for spool in spools.values())
    means = {codec: sum(probe.num_bytes[codec] for probe in sampled) / len(sampled) for codec in ENCODERS}
    shard_rows = choose_shard_rows(train.num_rows, means[config.codec], config.shard_mb)
    ranges = split_ranks({name: spool.num_rows for name, spool in spools.items()}, config.eval_fraction)
    sizes = {name: last - start for name, (start, last) in ranges.items()}
    return PlanReport(
        num_rows=num_rows,
        splits={name: SplitSize(num_rows=n, num_shards=math.ceil(n / shard_rows)) for name, n in sizes.items()},
        shard_rows=shard_rows,
        hours=sum(probe.seconds for probe in sampled) / len(sampled) * num_rows / 3600,
        num_bytes={codec: estimate_bytes(mean, sampled, num_rows) for codec, mean in means.items()},
        first=tuple(first),
        sampled=tuple(sampled),
    )


def estimate_bytes(mean_bytes: float, sampled: Sequence[RowProbe], num_rows: int) -> int:
    """Return the expected size of all shards, from the mean size of an audio member over a sample of rows."""
    share_kept = sum(probe.reason is None for probe in sampled) / len(sampled)
    return round((mean_bytes + share_kept * ROW_OVERHEAD_BYTES) * num_rows)


def _write_shards(workers: Workers, tasks: list[Task], config: PrepareConfig, ledger: Ledger) -> Iterator[Event]:
    open_tasks, statuses = {task.number: task for task in tasks}, list[Status]()
    for outcome in supervise(workers, write_shard, tasks, config):
        if isinstance(outcome, Note):
            yield outcome
        elif isinstance(outcome, ShardResult):
            task = open_tasks.pop(outcome.number)
            ledger.add(
                kept=outcome.num_utterances,
                reasons=outcome.reasons,
                examples=outcome.examples,
                seconds_in=outcome.seconds_in,
                seconds_kept=outcome.seconds_kept,
            )
            yield ShardFinished(
                split=task.split.name,
                shard=task.shard,
                num_utterances=outcome.num_utterances,
                num_rejects=outcome.num_rejects,
                seconds_kept=outcome.seconds_kept,
            )
            yield as_progress(ledger, [s for s in statuses if s.task in open_tasks])
            check_rejects(ledger, config)
        elif isinstance(outcome, Tick):
            statuses = [s for s in outcome.statuses if s.task in open_tasks]
            yield as_progress(ledger, statuses)


def _plan_made(plan: Plan, num_missing: int, config: PrepareConfig) -> PlanMade:
    splits = {split.name: SplitSize(num_rows=split.num_rows, num_shards=split.num_shards) for split in plan.splits}
    num_shards = sum(split.num_shards for split in plan.splits)
    return PlanMade(
        num_rows=plan.num_rows,
        splits=splits,
        num_shards_done=num_shards - num_missing,
        jobs=config.jobs or count_cores(),
    )


def _make_plan(
    workers: Workers, state: Path, corpora: Mapping[str, Path], config: PrepareConfig, on_step: StepObserver
) -> Generator[Note, None, Plan]:
    spools = {name: spool_manifest(path, state / f"{name}.spool", config) for name, path in corpora.items()}
    ranks = {name: rank_rows(spool.num_rows, config.seed) for name, spool in spools.items()}
    rows = sample_rows(spools["train"], ranks["train"])
    probes = yield from probe_sample(rows, spools["train"].corpus, workers, config)
    mean_bytes = sum(probe.num_bytes[config.codec] for probe in probes) / len(probes)
    shard_rows = choose_shard_rows(spools["train"].num_rows, mean_bytes, config.shard_mb)
    plan = write_plan(state, spools, ranks, config=config, shard_rows=shard_rows, on_step=on_step)
    for spool in spools.values():
        spool.path.unlink()
    return plan


def probe_sample(
    rows: pa.Table, corpus: Path, workers: Workers, config: PrepareConfig
) -> Generator[Note, None, list[RowProbe]]:
    """Prepare some rows in the workers, keep nothing but sizes and reasons; return them in order of row."""
    tasks = [
        Task(number=-number, config=config, rows=rows.slice(start, PROBE_ROWS), corpus=corpus, board=workers.board)
        for number, start in enumerate(range(0, len(rows), PROBE_ROWS), 1)
    ]
    probes = list[RowProbe]()
    for outcome in supervise(workers, probe_rows, tasks, config):
        if isinstance(outcome, Note):
            yield outcome
        elif isinstance(outcome, ProbeResult):
            probes += outcome.probes
    return sorted(probes, key=_row_of)


def _returned(generator: Generator[Any, None, list[RowProbe]]) -> list[RowProbe]:
    while True:
        try:
            next(generator)
        except StopIteration as stop:
            probes: list[RowProbe] = stop.value
            return probes


def _row_of(probe: RowProbe) -> int:
    return probe.row


def _find_missing(
    out: Path, state: Path, *, plan: Plan, config: PrepareConfig, ledger: Ledger, on_step: StepObserver
) -> tuple[list[Task], list[Note]]:
    """Return a task for each shard without a valid receipt; enter the others in the ledger."""
    tasks, notes = list[Task](), list[Note]()
    for split in plan.splits:
        folder, receipts = out / split.name, _receipts(state, split)
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        receipts.mkdir(parents=True, exist_ok=True)
        missing, stale = _check_receipts(split, folder, receipts, plan=plan, config=config, ledger=ledger)
        notes += stale
        tasks += [
            Task(
                number=len(tasks) + position,
                config=config,
                rows=split.rows,
                corpus=split.corpus,
                board=state / "workers",
                split=folder,
                shard=shard,
                receipt=receipts / f"{shard:06d}.json",
                plan=plan.fingerprint,
                on_step=on_step,
            )
            for position, shard in enumerate(missing, 1)
        ]
        if missing:
            (folder / DATASET_NAME).unlink(missing_ok=True)
    return tasks, notes


def _check_receipts(
    split: SplitPlan, folder: Path, receipts: Path, *, plan: Plan, config: PrepareConfig, ledger: Ledger
) -> tuple[list[int], list[Note]]:
    """Return the shards that are to be written, and what to say of those that were written once already."""
    missing, stale = list[int](), list[str]()
    for shard in range(split.num_shards):
        path = receipts / f"{shard:06d}.json"
        receipt = read_receipt(path)
        if receipt is not None:
            reason = find_staleness(
                receipt, plan=plan.fingerprint, limits=run_limits(config), split=folder, corpus=split.corpus
            )
            if reason is None:
                enter_receipt(receipt, ledger, corpus=split.corpus)
                continue
            stale.append(f"{split.name} shard {shard:06d} is prepared again: {reason}")
            path.unlink()
        missing.append(shard)
    if len(stale) > MAX_STALE_NOTES:
        stale[MAX_STALE_NOTES:] = [f"... and {len(stale) - MAX_STALE_NOTES} more shards of {split.name}"]
    return missing, [Note(message=message) for message in stale]


def _manifests(corpus: Path, config: PrepareConfig) -> dict[str, Path]:
    return {"train": corpus, **({"eval": Path(config.eval_corpus)} if config.eval_corpus else {})}


def _receipts(state: Path, split: SplitPlan) -> Path:
    return state / "receipts" / split.name
