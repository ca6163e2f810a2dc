"""Tars that others wrote become a dataset: they are found, read, and their utterances measured; nothing is rewritten.

A run that was killed is resumed by the next one.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper_shard.config.index import IndexConfig
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import DATASET_NAME
from whisper_shard.errors import StateError
from whisper_shard.prepare.events import Note, Progress
from whisper_shard.prepare.pipeline import build_pipeline
from whisper_shard.prepare.progress import RunCounts, as_progress, check_kept, check_rejects
from whisper_shard.prepare.workers.heartbeat import WorkerStatus
from whisper_shard.prepare.workers.pool import Workers, count_cores, open_workers
from whisper_shard.prepare.workers.supervisor import Tick, supervise
from whisper_shard.storage.atomic import WRITER, AtomicWriter
from whisper_shard.storage.lock import hold_lock
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.tars.assemble import IndexTotals, assemble_index
from whisper_shard.tars.find import TarInput, TextInput, find_tars, find_texts
from whisper_shard.tars.measure import MeasureResult, MeasureTask, count_measured, measure_rows
from whisper_shard.tars.scan import ScanResult, ScanTask, scan_tar
from whisper_shard.tars.state import IndexFolder, begin_state, read_table, remove_index

TASK_ROWS = 256
"""Utterances that a worker decodes before it reports: one tar keeps all cores busy, and a kill costs little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarsFound:
    """It is known what there is to do."""

    num_tars: int
    """Tars."""
    num_bytes: int
    """Bytes of all tars."""
    texts: str
    """Where the texts come from: ``members``, ``nemo`` or ``shar``."""
    jobs: int
    """Worker processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarsRead:
    """One more tar has been read to its end."""

    num_tars: int
    """Tars read so far."""
    num_tars_total: int
    """All tars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDone:
    """The index is complete."""

    totals: IndexTotals
    """What it holds."""
    seconds: float
    """Time of this run."""


IndexEvent = TarsFound | TarsRead | Progress | Note | IndexDone
"""What a run yields."""


def index_tars(tars: str, out: Path, config: IndexConfig, *, writer: AtomicWriter = WRITER) -> Iterator[IndexEvent]:
    """Index tars, from the beginning or from where an earlier run was stopped.

    Args:
        tars: See `find_tars`.
        out: Folder for the dataset; created if it does not exist.
        config: Settings.
        writer: Writes all files; crash tests pass one of their own.

    Yields:
        TarsFound, then TarsRead, Progress and Note as they come, then IndexDone.

    Raises:
        ManifestError: No tars, no texts, no utterance that can be used, or too many rejected.
        DatasetError: A tar is damaged, or holds something that is not a plain file; names the byte.
        ConfigError: A filter that does not exist, or an output that is not a folder.
        StateError: The output holds a dataset already, or another process is writing it.
        EnvironmentFault: The machine failed; the same command resumes.
    """
    started, prepare = time.monotonic(), config.as_prepare()
    build_pipeline(prepare)
    found = find_tars(tars, ObjectStore())
    output = IndexFolder(path=out, writer=writer)
    if (out / DATASET_NAME).exists() and not config.rebuild:
        raise StateError(f"{out}: holds a dataset already; choose another output folder, or give --rebuild")
    with hold_lock(output.state / "lock", folder=out, name="output", doing="indexing"):
        if begin_state(output, found, config):
            yield Note(message=f"{out}: an unfinished run had other tars, settings or libraries; begun again")
        texts = find_texts([tar.location for tar in found], config, output.manifests)
        run = _Run(output=output, tars=found, texts=texts, config=config)
        yield TarsFound(
            num_tars=len(found),
            num_bytes=sum(tar.num_bytes for tar in found),
            texts=texts[0].kind,
            jobs=config.jobs or count_cores(),
        )
        with open_workers(output, prepare) as workers:
            yield from _scan(workers, run)
            tasks, counts = _find_tasks(run, started)
            yield from _measure(workers, tasks, prepare, counts)
        check_kept(tars, counts, prepare)
        remove_index(output)
        totals = assemble_index(output, found, texts, config)
        shutil.rmtree(output.state)
    yield IndexDone(totals=totals, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all parts of a run need to know."""

    output: IndexFolder
    tars: Sequence[TarInput]
    texts: Sequence[TextInput]
    config: IndexConfig


def _scan(workers: Workers, run: _Run) -> Iterator[IndexEvent]:
    """Read every tar that has not been read."""
    prepare = run.config.as_prepare()
    tasks = [
        ScanTask(
            number=number,
            config=prepare,
            tar=tar,
            texts=run.texts[number],
            output=run.output,
            index=number,
        )
        for number, tar in enumerate(run.tars)
        if not run.output.tar(number).exists()
    ]
    num_read = len(run.tars) - len(tasks)
    for outcome in supervise(workers, scan_tar, tasks, prepare):
        if isinstance(outcome, ScanResult):
            num_read += 1
            yield TarsRead(num_tars=num_read, num_tars_total=len(run.tars))
        elif isinstance(outcome, Note):
            yield outcome


def _find_tasks(run: _Run, started: float) -> tuple[list[MeasureTask], RunCounts]:
    """Return the work that is left to do, and the counts of what is done."""
    tasks, done, first_row = list[MeasureTask](), RunCounts(num_rows=0, started=started), 0
    for index, tar in enumerate(run.tars):
        num_rows = len(read_table(run.output.tar(index))[0])
        for first in range(0, num_rows, TASK_ROWS):
            path = run.output.measured(index, first)
            if path.exists():
                done.add(count_measured(read_table(path)[0], str(tar.location)), is_earlier=True)
                continue
            tasks.append(
                MeasureTask(
                    number=len(tasks) + 1,
                    config=run.config.as_prepare(),
                    tar=tar,
                    output=run.output,
                    index=index,
                    first=first,
                    num_rows=min(TASK_ROWS, num_rows - first),
                    first_row=first_row,
                    npy_sample_rate=run.config.npy_sample_rate,
                )
            )
        first_row += num_rows
    done.num_rows = first_row
    return tasks, done


def _measure(
    workers: Workers, tasks: Sequence[MeasureTask], prepare: PrepareConfig, counts: RunCounts
) -> Iterator[IndexEvent]:
    """Decode every utterance that has not been decoded."""
    pending, statuses = {task.number for task in tasks}, list[WorkerStatus]()
    for outcome in supervise(workers, measure_rows, tasks, prepare, probe=measure_rows):
        if isinstance(outcome, MeasureResult):
            pending.remove(outcome.number)
            counts.add(outcome.counts)
            yield as_progress(counts, [status for status in statuses if status.task in pending])
            check_rejects(counts, prepare)
        elif isinstance(outcome, Tick):
            statuses = [status for status in outcome.statuses if status.task in pending]
            yield as_progress(counts, statuses)
        else:
            yield outcome
