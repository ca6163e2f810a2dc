"""A corpus becomes datasets: plan, shards with receipts, index. A run that was killed is resumed by the next one.

Everything needed to resume is in OUT/.prepare: the plan, and a receipt for each finished shard. OUT may be in a bucket.
"""

import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from whisper_shard.config.checks import parse_slice
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.errors import InUseError, StateError
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.prepare.assemble import assemble_dataset
from whisper_shard.prepare.drop import describe_dropped, drop_duplicates, find_orphans
from whisper_shard.prepare.duplicates import find_duplicates
from whisper_shard.prepare.events import Event, Note, PlanMade, ShardFinished, SliceDone, SplitSize
from whisper_shard.prepare.make_plan import may_have_sample, open_manifests, open_or_make_plan, open_plan
from whisper_shard.prepare.output import (
    OutputFolder,
    empty_work_folder,
    fetch_plan,
    lock_output,
    open_output,
    remove_output,
    remove_temp_files,
    share_output,
)
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.prepare.plan import Plan, ShardPlan, SplitPlan
from whisper_shard.prepare.progress import RunCounts, as_done, as_progress, check_kept, check_rejects
from whisper_shard.prepare.receipts import count_receipt, find_staleness, read_receipt
from whisper_shard.prepare.shard import ShardResult, write_shard
from whisper_shard.prepare.split import describe_planned_split
from whisper_shard.prepare.spool import check_manifest
from whisper_shard.prepare.task import FinishedRow, ShardTask
from whisper_shard.prepare.workers.cluster import write_in_cluster
from whisper_shard.prepare.workers.heartbeat import WorkerStatus
from whisper_shard.prepare.workers.pool import Workers, count_jobs, open_workers
from whisper_shard.prepare.workers.supervisor import Tick, supervise
from whisper_shard.storage.atomic import WRITER, AtomicWriter
from whisper_shard.storage.location import Location, is_url, parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

_PLAN_POLL_SECONDS = 1.0
MAX_STALE_NOTES = 5
"""Stale shards of a dataset that are named one by one."""


def prepare_corpus(
    corpus: Location | Path | str,
    out: Location | Path | str,
    config: PrepareConfig,
    *,
    writer: AtomicWriter = WRITER,
    storage: StorageConfig | None = None,
) -> Iterator[Event]:
    """Prepare a corpus, from the beginning or from where an earlier run was stopped.

    Args:
        corpus: The manifest, local or a URL.
        out: Folder for the datasets ``train`` and ``eval``, local or a URL; created if it does not exist.
        config: Settings.
        writer: Writes all files; crash tests pass one of their own.
        storage: How object storage is reached.

    Yields:
        Note for each assumption about the manifests, PlanMade, then Progress, ShardFinished and Note as they come, then
        Done.

    Raises:
        ManifestError: The manifest cannot be used, none of its rows can, or too many are rejected.
        ConfigError: A filter or decoder that does not exist, an output that is not a folder, or a bucket that is
            missing or denied.
        StateError: The output belongs to another configuration or manifest, or another process is writing it.
        EnvironmentFault: The machine or the network failed; the same command resumes.
    """
    started = time.monotonic()
    if config.engine != "local":  # other machines have another current folder
        corpus, out = _absolute(corpus), _absolute(out)
    output = open_output(parse_location(out), writer=writer, store=ObjectStore(storage or StorageConfig()))
    build_pipeline(config)
    is_remote = any(is_url(str(place)) for place in (corpus, config.eval_corpus))
    # Only where it is needed: a kill leaves it behind.
    with TemporaryDirectory(prefix="whisper-shard-") if is_remote else nullcontext("") as copies:
        # Before anything is written: a misspelt path creates no folder.
        manifests = yield from _open_manifests(corpus, config, copies=Path(copies), store=output.store)
        with lock_output(output) as check_lease:
            if config.rebuild:
                remove_output(output)
            remove_temp_files(output)
            with open_workers(output, config) as workers:
                if config.finish and not output.plan.exists():
                    raise StateError(f"{output.shown}: nothing has been prepared; run the slices first")
                plan, finished = yield from open_or_make_plan(workers, output, manifests, config)
                counts = RunCounts(num_rows=plan.num_rows, started=started)
                missing = yield from _find_missing(plan.shards(), config, counts)
                if config.finish and missing:
                    raise _unfinished(output, plan, missing)
                config = replace(config, jobs=count_jobs(config, plan.num_rows))
                yield _plan_made(plan, len(missing), config)
                yield from _write_shards(workers, missing, config, counts, finished)
                yield from _prepare_orphans(workers, plan, config, counts)
            remove_temp_files(output)  # of workers that died in this run
            check_kept(corpus, counts, config)
            check_lease()
            duplicates = find_duplicates(plan.splits)
            is_dropped = config.duplicates == "drop"
            found = list(duplicates.describe(is_dropped=is_dropped))
            if duplicates.repeats or not is_dropped:
                yield from (Note(message=line) for line in found)
            if is_dropped:
                drop_duplicates(duplicates, codec=config.codec)
                found = [describe_dropped(plan.splits)]
                yield Note(message=found[0])
            checks = [*describe_planned_split(plan.splits), *found]
            totals = {split.name: assemble_dataset(split, config, checks=checks) for split in plan.splits}
            shutil.rmtree(output.heartbeats)
            shutil.rmtree(output.state / "slices", ignore_errors=True)
            output.worker_log.unlink(missing_ok=True)
            empty_work_folder(output)
        yield as_done(totals, counts)


def prepare_slice(
    corpus: Location | Path | str,
    out: Location | Path | str,
    config: PrepareConfig,
    *,
    writer: AtomicWriter = WRITER,
    storage: StorageConfig | None = None,
) -> Iterator[Event]:
    """Prepare a part of the shards, while other machines prepare the others; `prepare_corpus` makes the datasets.

    The first slice makes the plan, and the others wait for it. All machines need the same corpus, and the same output:
    a shared folder or a bucket.

    Args:
        corpus: The manifest, local or a URL.
        out: Folder for the datasets, local or a URL.
        config: Settings; ``slice`` says which part.
        writer: Writes all files.
        storage: How object storage is reached.

    Yields:
        As `prepare_corpus`, but SliceDone instead of Done.

    Raises:
        InUseError: Another process prepares this slice, or all of the output.
        WhisperShardError: As `prepare_corpus`.
    """
    started = time.monotonic()
    part, total = parse_slice("--slice", config.slice)
    build_pipeline(config)
    with TemporaryDirectory(prefix="whisper-shard-") as folder:
        node = Path(folder)
        store = ObjectStore(storage or StorageConfig())
        output = open_output(parse_location(out), writer=writer, store=store, node=node)
        manifests = yield from _open_manifests(corpus, config, copies=node, store=store)
        plan, finished = yield from _wait_for_plan(output, manifests, config)
        with share_output(output, part=f"{part + 1}-of-{total}"), open_workers(output, config) as workers:
            own = [shard for position, shard in enumerate(plan.shards()) if position % total == part]
            counts = RunCounts(num_rows=sum(shard.num_rows for shard in own), started=started)
            missing = yield from _find_missing(own, config, counts)
            config = replace(config, jobs=count_jobs(config, plan.num_rows))
            yield _plan_made(plan, plan.num_shards - len(own) + len(missing), config)
            yield from _write_shards(workers, missing, config, counts, finished)
        yield SliceDone(
            slice=config.slice,
            num_shards=len(own),
            num_missing=plan.num_shards - output.count_receipts(),
            seconds=time.monotonic() - started,
        )


def _absolute(place: Location | Path | str) -> Location:
    location = parse_location(place)
    return parse_location(location.path.absolute()) if location.is_local else location


def _open_manifests(
    corpus: Location | Path | str, config: PrepareConfig, *, copies: Path, store: ObjectStore
) -> Generator[Note, None, dict[str, Manifest]]:
    manifests = open_manifests(corpus, config, copies=copies, store=store)
    for manifest in manifests.values():
        if config.rebuild:  # before anything is removed: the manifest that replaces it must be readable to its end
            check_manifest(manifest)
        yield from (Note(message=note) for note in manifest.notes)
    return manifests


def _wait_for_plan(
    output: OutputFolder, manifests: Mapping[str, Manifest], config: PrepareConfig
) -> Generator[Note, None, tuple[Plan, Sequence[FinishedRow]]]:
    """Return the plan that all slices share: that of the output, or one made here while the other slices wait."""
    is_waiting = False
    while True:
        fetch_plan(output)
        if (plan := open_plan(output, manifests, config)) is not None:
            return plan, ()
        try:
            with lock_output(output), open_workers(output, config) as workers:
                remove_temp_files(output)
                return (yield from open_or_make_plan(workers, output, manifests, config))
        except InUseError as error:
            if not is_waiting:
                yield Note(message=f"waiting for the plan: {error}")
            is_waiting = True
            time.sleep(_PLAN_POLL_SECONDS)


def _unfinished(output: OutputFolder, plan: Plan, missing: Sequence[ShardPlan]) -> StateError:
    first = missing[0]
    return StateError(
        f"{output.shown}: {len(missing)} of {plan.num_shards} shards are not prepared, the first is shard "
        f"{first.number:06d} of {first.split.name}; run the slices that failed again, or the same command without "
        "--finish"
    )


def _plan_made(plan: Plan, num_missing: int, config: PrepareConfig) -> PlanMade:
    return PlanMade(
        num_rows=plan.num_rows,
        splits={split.name: SplitSize(num_rows=split.num_rows, num_shards=split.num_shards) for split in plan.splits},
        num_shards_done=plan.num_shards - num_missing,
        jobs=count_jobs(config, plan.num_rows),
    )


def _find_missing(
    shards: Iterable[ShardPlan], config: PrepareConfig, counts: RunCounts
) -> Generator[Note, None, list[ShardPlan]]:
    """Return the shards without a valid receipt, and count the others; yield a note for each stale receipt.

    Args:
        shards: Those of a dataset one after the other.
        config: Settings.
        counts: Gets the shards that are finished.
    """
    missing = list[ShardPlan]()
    for split, of_split in groupby(shards, key=attrgetter("split")):
        (split.folder / "shards").mkdir(parents=True, exist_ok=True)
        split.output.receipts(split.name).mkdir(parents=True, exist_ok=True)
        stale, sizes = list[str](), split.output.tar_sizes(split.name)
        found = [shard for shard in of_split if not _is_finished(shard, config, counts, stale, sizes)]
        yield from (Note(message=message) for message in _shorten(stale, split))
        if found:
            # A dataset without all of its shards must not look finished.
            split.output.remove(split.folder / DATASET_NAME)
        missing += found
    return missing


def _is_finished(
    shard: ShardPlan, config: PrepareConfig, counts: RunCounts, stale: list[str], sizes: Mapping[str, int]
) -> bool:
    """Return whether a shard has a valid receipt, and count it; remove a stale receipt and add the reason to a list."""
    receipt = read_receipt(shard.receipt)
    if receipt is None:
        if shard.receipt.exists():
            shard.split.output.remove(shard.receipt)
        return False
    reason = find_staleness(receipt, shard, config, tar_bytes=sizes.get(shard.tar.name, 0))
    if reason is None:
        counts.add(count_receipt(receipt, shard.split.corpus), is_earlier=True)
        return True
    stale.append(f"{shard.split.name} shard {shard.number:06d} is prepared again: {reason}")
    # Before the new tar is written: a kill after that must not leave a new tar with an old receipt of the same size.
    shard.split.output.remove(shard.receipt)
    return False


def _shorten(stale: list[str], split: SplitPlan) -> list[str]:
    more = len(stale) - MAX_STALE_NOTES
    return [*stale[:MAX_STALE_NOTES], *([f"... and {more} more shards of {split.name}"] if more > 0 else [])]


def _prepare_orphans(workers: Workers, plan: Plan, config: PrepareConfig, counts: RunCounts) -> Iterator[Event]:
    """Prepare again the shards without an utterance whose audio is in no other one any more."""
    while config.duplicates == "drop" and (orphans := find_orphans(plan.splits)):
        for shard in orphans:
            yield Note(
                message=f"{shard.split.name} shard {shard.number:06d} is prepared again: what a dropped utterance "
                "repeated is gone"
            )
            shard.split.output.remove(shard.split.folder / DATASET_NAME)
            shard.split.output.remove(shard.receipt)
        yield from _write_shards(workers, orphans, config, counts)


def _write_shards(
    workers: Workers,
    shards: list[ShardPlan],
    config: PrepareConfig,
    counts: RunCounts,
    finished: Sequence[FinishedRow] = (),
) -> Iterator[Event]:
    tasks = {
        number: ShardTask(
            number=number,
            config=config,
            shard=shard,
            finished=tuple(finished) if may_have_sample(shard, config) else (),
        )
        for number, shard in enumerate(shards, 1)
    }
    pending, statuses = dict(tasks), list[WorkerStatus]()
    outcomes = (
        supervise(workers, write_shard, list(tasks.values()), config)
        if config.engine == "local"
        else write_in_cluster(list(tasks.values()), config)
    )
    for outcome in outcomes:
        if isinstance(outcome, Note):
            yield outcome
        elif isinstance(outcome, ShardResult):
            shard = pending.pop(outcome.number).shard
            counts.add(outcome.counts)
            yield ShardFinished(
                split=shard.split.name,
                shard=shard.number,
                num_utterances=outcome.counts.num_utterances,
                num_rejects=outcome.counts.rejects.total(),
                seconds_kept=outcome.counts.seconds_kept,
            )
            # A worker may still show the task it has just finished, whose rows are counted already.
            yield as_progress(counts, [status for status in statuses if status.task in pending])
            check_rejects(counts, config)
        elif isinstance(outcome, Tick):
            statuses = [status for status in outcome.statuses if status.task in pending]
            yield as_progress(counts, statuses)
