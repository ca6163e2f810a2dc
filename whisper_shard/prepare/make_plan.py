"""A plan is made once, from the manifests and the size of some utterances, and found again by every later run."""

import hashlib
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from whisper_shard.audio.members import ENCODERS
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.config.toml import dump_config
from whisper_shard.errors import StateError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.remote import open_remote_manifest
from whisper_shard.prepare.events import Note
from whisper_shard.prepare.output import OutputFolder, remove_output
from whisper_shard.prepare.plan import OUTPUT_VERSION, Plan, ShardPlan, SplitPlan, deciding_settings
from whisper_shard.prepare.probe import ProbeResult, RowProbe, probe_rows
from whisper_shard.prepare.samples import describe_texts
from whisper_shard.prepare.split import describe_split
from whisper_shard.prepare.spool import SAMPLE_ROWS, Spool, sample_rows, sort_into_shards, spool_manifest
from whisper_shard.prepare.task import FinishedRow, RowsTask
from whisper_shard.prepare.workers.pool import Workers, count_jobs
from whisper_shard.prepare.workers.supervisor import supervise
from whisper_shard.storage.atomic import as_environment_fault, sync_folder
from whisper_shard.storage.location import Location, parse_location
from whisper_shard.storage.object_store import ObjectStore

PROBE_ROWS = 8
"""Rows per task when rows are prepared only to learn their size."""
MIN_SHARDS = 16
"""A corpus too small for this many full shards is still cut into this many, so that all cores have work ..."""
MIN_SHARD_ROWS = 32
"""... but not into shards of fewer rows than this."""
ROW_OVERHEAD_BYTES = 2_048
"""Bytes of a row beside its audio: two tar headers, the json member, and padding."""


def open_manifests(
    corpus: Location | Path | str, config: PrepareConfig, *, copies: Path, store: ObjectStore
) -> dict[str, Manifest]:
    """Return the manifests by split; without ``--eval-corpus`` there is only ``train``.

    Args:
        corpus: The manifest.
        config: Settings.
        copies: A folder of this machine for copies of manifests in object storage; it must outlive their use.
        store: Access to them.

    Raises:
        ManifestError: One of them cannot be used.
        EnvironmentFault: The network fails, or a copy cannot be written.
        ConfigError: Bucket, credentials or endpoint are wrong.
    """
    named = {"train": corpus} | ({"eval": config.eval_corpus} if config.eval_corpus else {})
    return {
        name: open_manifest(place.path, config)
        if (place := parse_location(text)).is_local
        else open_remote_manifest(place, config, copies=copies / name, store=store)
        for name, text in named.items()
    }


def prepare_sample(
    rows: pa.Table,
    corpus: Location | Path,
    workers: Workers,
    config: PrepareConfig,
    *,
    store: ObjectStore,
    codecs: Sequence[str] = tuple(ENCODERS),
    is_kept: bool = False,
) -> tuple[list[RowProbe], list[Note]]:
    """Prepare some rows in the workers and return their sizes and rejections, in order of row, and notes.

    Args:
        rows: In MANIFEST_SCHEMA.
        corpus: Folder of the manifest, to which relative audio paths are relative.
        workers: The pool.
        config: Settings.
        store: Access to recordings in object storage.
        codecs: Those with which sizes are wanted.
        is_kept: Whether to return also what the rows have become.
    """
    # Negative, unlike the numbers of shards: a worker that has not begun a shard yet must not count in its progress.
    tasks = [
        RowsTask(
            number=-number,
            config=config,
            rows=rows.slice(start, PROBE_ROWS),
            corpus=corpus,
            heartbeats=workers.heartbeats,
            store=store,
            codecs=codecs,
            is_kept=is_kept,
        )
        for number, start in enumerate(range(0, len(rows), PROBE_ROWS), 1)
    ]
    probes, notes = list[RowProbe](), list[Note]()
    for outcome in supervise(workers, probe_rows, tasks, config):
        if isinstance(outcome, Note):
            notes.append(outcome)
        elif isinstance(outcome, ProbeResult):
            probes += outcome.probes
    return sorted(probes, key=lambda probe: probe.row), notes


def mean_bytes(sampled: Sequence[RowProbe], codec: str) -> float:
    """Return the mean size of an audio member, rejected rows counting as 0."""
    return sum(probe.num_bytes[codec] for probe in sampled) / len(sampled)


def choose_shard_rows(num_rows: int, mean_bytes: float, shard_mb: int) -> int:
    """Return how many rows make a shard of ``shard_mb``, or fewer if there would be less than MIN_SHARDS shards.

    Args:
        num_rows: Rows of the corpus.
        mean_bytes: Mean size of an audio member, rejected rows counting as 0.
        shard_mb: Wanted size of a shard in MB.
    """
    by_size = max(1, int(shard_mb * 1e6 / (mean_bytes + ROW_OVERHEAD_BYTES)))
    by_count = max(MIN_SHARD_ROWS, math.ceil(num_rows / MIN_SHARDS))
    return _round_down(min(by_size, by_count))


def split_ranks(spools: Mapping[str, Spool]) -> dict[str, range]:
    """Return which ranks of the random order go into each dataset.

    Args:
        spools: The manifest of each dataset; without ``eval``, that set is split off ``train``.
    """
    if "eval" in spools:
        return {name: range(spool.num_rows) for name, spool in spools.items()}
    train = spools["train"]
    num_eval = train.order.num_eval
    return {"train": range(num_eval, train.num_rows), **({"eval": range(num_eval)} if num_eval else {})}


def write_plan(output: OutputFolder, spools: Mapping[str, Spool], *, config: PrepareConfig, shard_rows: int) -> Plan:
    """Sort the manifests into shards, and write plan.json last: from now on there is a plan.

    Args:
        output: The output folder.
        spools: ``train``, and ``eval`` where it has a manifest of its own.
        config: Settings.
        shard_rows: Rows per shard.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable; or the network fails.
    """
    ranks = split_ranks(spools)
    try:
        for name, found in ranks.items():
            spool = spools.get(name, spools["train"])
            sort_into_shards(spool, output.rows(name), ranks=found, shard_rows=shard_rows)
        sync_folder(output.state)
    except OSError as error:
        raise as_environment_fault(error, output.state) from error
    content = {
        "version": OUTPUT_VERSION,
        "config": deciding_settings(config),
        "manifests": {
            name: {"sha256": spool.manifest.digest(), "num_rows": spool.num_rows} for name, spool in spools.items()
        },
        "shard_rows": shard_rows,
        "splits": {name: {"num_rows": len(found)} for name, found in ranks.items()},
    }
    output.upload(*map(output.rows, ranks))
    output.writer.json(output.plan, content)
    output.upload(output.plan)
    return _as_plan(output, content, {name: spool.manifest.folder for name, spool in spools.items()})


def open_plan(output: OutputFolder, manifests: Mapping[str, Manifest], config: PrepareConfig) -> Plan | None:
    """Return the plan of an earlier run into the same folder, or None if there is none of this OUTPUT_VERSION.

    Args:
        output: The output folder.
        manifests: The manifests of this run, by split.
        config: The settings of this run.

    Raises:
        StateError: It was made with other settings (each named with both values) or from another manifest.
        ManifestError: A manifest is gone.
    """
    if not output.plan.exists():
        return None
    try:
        content = json.loads(output.plan.read_bytes())
        is_current = content.get("version") == OUTPUT_VERSION
        changes = _find_changed_settings(content["config"], deciding_settings(config), is_current=is_current)
        digests = {name: content["manifests"][name]["sha256"] for name in manifests}
        plan = _as_plan(output, content, {name: manifest.folder for name, manifest in manifests.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(f"{output.plan}: damaged ({error!r}); give --rebuild to prepare all again") from error
    advice = "choose another output folder, or give --rebuild to prepare all again"
    if changes:
        raise StateError(f"{output.shown}: belongs to another configuration: {'; '.join(changes)}; {advice}")
    for name, manifest in manifests.items():
        if (found := manifest.digest()) != digests[name]:
            raise StateError(
                f"{output.shown}: was made from another manifest: {manifest.path} had sha256 {digests[name][:12]}, "
                f"has {found[:12]} (rows added, changed or reordered); {advice}"
            )
    return plan if is_current else None


def open_or_make_plan(
    workers: Workers, output: OutputFolder, manifests: Mapping[str, Manifest], config: PrepareConfig
) -> Generator[Note, None, tuple[Plan, Sequence[FinishedRow]]]:
    """Return the plan, and the rows that this machine has prepared in order to make it and writes itself."""
    plan, finished = open_plan(output, manifests, config), list[FinishedRow]()
    if plan is None:
        if output.plan.exists():
            message = f"{output.shown}: another version of whisper-shard began it; everything is prepared again"
            yield Note(message=message)
            remove_output(output)
        plan, finished = yield from _make_plan(workers, output, manifests, config)
    with output.writer.file(output.settings) as file:
        file.write(dump_config(replace(config, rebuild=False, slice="", finish=False), "prepare").encode())
    output.upload(output.settings)
    return plan, finished


def _make_plan(
    workers: Workers, output: OutputFolder, manifests: Mapping[str, Manifest], config: PrepareConfig
) -> Generator[Note, None, tuple[Plan, list[FinishedRow]]]:
    spools = {
        name: spool_manifest(manifest, output.state / f"{name}.spool", config) for name, manifest in manifests.items()
    }
    yield from (Note(message=note) for spool in spools.values() for note in spool.notes)
    yield from (Note(message=line) for line in describe_split(spools, asked=config.eval_fraction))
    train = spools["train"]
    yield from (Note(message=line) for line in describe_texts(sample_rows(train), config))
    sized = replace(config, jobs=count_jobs(config, sum(spool.num_rows for spool in spools.values())))
    sampled, notes = prepare_sample(
        sample_rows(train),
        train.manifest.folder,
        workers,
        sized,
        store=output.store,
        codecs=(config.codec,),
        # The workers of a cluster would get the audio over the network, within their tasks.
        is_kept=config.engine == "local",
    )
    yield from notes
    shard_rows = choose_shard_rows(train.num_rows, mean_bytes(sampled, config.codec), config.shard_mb)
    plan = write_plan(output, spools, config=config, shard_rows=shard_rows)
    for spool in spools.values():
        spool.path.unlink()
    return plan, [probe.finished for probe in sampled if probe.finished is not None]


def may_have_sample(shard: ShardPlan, config: PrepareConfig) -> bool:
    """Return whether rows of a shard may have been prepared for the plan: the first ones of the random order were."""
    is_sampled = shard.split.name == "train" or not config.eval_corpus
    return is_sampled and shard.number * shard.split.shard_rows < SAMPLE_ROWS


def _find_changed_settings(then: Mapping[str, Any], now: Mapping[str, Any], *, is_current: bool) -> list[str]:
    # An output of another version may lack settings that did not exist then, and is prepared again anyway.
    names = then.keys() | now.keys() if is_current else then.keys() & now.keys()
    return [
        f"{name} was {_show(then.get(name))}, is {_show(now.get(name))}"
        for name in sorted(names)
        if then.get(name) != now.get(name)
    ]


def _as_plan(output: OutputFolder, content: Mapping[str, Any], corpora: Mapping[str, Path | Location]) -> Plan:
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    num_rows = {name: split["num_rows"] for name, split in content["splits"].items()}
    splits = tuple(
        SplitPlan(
            name=name,
            output=output,
            fingerprint=fingerprint,
            corpus=corpora.get(name, corpora["train"]),
            num_rows=num_rows[name],
            shard_rows=content["shard_rows"],
        )
        for name in sorted(num_rows, reverse=True)
    )
    return Plan(splits=splits)


def _round_down(count: int) -> int:
    """Keep two significant digits, so that the number is easy to remember."""
    unit: int = 10 ** max(len(str(count)) - 2, 0)
    return count // unit * unit


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
