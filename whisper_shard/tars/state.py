"""What an unfinished run has found out, kept in OUT/.index so that the next one resumes; removed at the end.

OUT/.index/lock                      held by the process that indexes
OUT/.index/plan.json                 tars, settings and versions; files below count only while they match
OUT/.index/tars/000000.arrow         the utterances found in a tar
OUT/.index/rows/000000-000000.arrow  measured utterances of a tar, from a row on
OUT/.index/manifests                 a manifest split by tar
OUT/.index/workers, workers.log      heartbeats and messages of the workers
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from whisper_shard.config.index import IndexConfig
from whisper_shard.dataset.description import DATASET_NAME, INDEX_NAME, LENGTHS_NAME
from whisper_shard.prepare.assemble import REJECTS_NAME
from whisper_shard.prepare.files import stat_source
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.receipts import deciding_versions
from whisper_shard.tars.find import TarInput, list_text_files

STATE_VERSION = 2
"""Raise it with any change to the files below OUT/.index."""
_RUN_SETTINGS = ("jobs", "max_reject_fraction", "rebuild")
"""Settings that do not affect what is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFolder(OutputFolder):
    """The paths of a run, and the writer of its files."""

    @property
    def state(self) -> Path:
        """Folder with everything needed to resume."""
        return self.path / ".index"

    @property
    def manifests(self) -> Path:
        """Folder of the parts of a manifest."""
        return self.state / "manifests"

    def tar(self, number: int) -> Path:
        """Arrow file with the utterances found in a tar."""
        return self.state / "tars" / f"{number:06d}.arrow"

    def measured(self, number: int, first: int) -> Path:
        """Arrow file with the measured utterances of a tar, from the ``first`` one found in it."""
        return self.state / "rows" / f"{number:06d}-{first:06d}.arrow"


def begin_state(output: IndexFolder, tars: Sequence[TarInput], config: IndexConfig) -> bool:
    """Make the folder of the state; remove what was left by a run with other tars, settings or libraries.

    Returns:
        Whether something had to be removed.
    """
    plan = json.loads(json.dumps(_describe(tars, config)))
    is_stale = output.plan.exists() and _read(output.plan) != plan
    if is_stale:
        output.plan.unlink()
    if not output.plan.exists():
        for path in (output.tar(0).parent, output.measured(0, 0).parent):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        output.writer.json(output.plan, plan)
    shutil.rmtree(output.manifests, ignore_errors=True)
    output.manifests.mkdir()
    for path in output.state.rglob("*.tmp.*"):
        path.unlink(missing_ok=True)
    return is_stale


def remove_index(output: IndexFolder) -> None:
    """Remove a finished index, dataset.json first."""
    for name in (DATASET_NAME, INDEX_NAME, LENGTHS_NAME, REJECTS_NAME):
        (output.path / name).unlink(missing_ok=True)


def deciding_settings(config: IndexConfig) -> dict[str, Any]:
    """Return the settings that affect what is written, except for where the manifest lies."""
    settings = {name: value for name, value in asdict(config).items() if name not in _RUN_SETTINGS}
    return {**settings, "manifest": bool(config.manifest)}


def write_table(output: IndexFolder, path: Path, table: pa.Table, meta: Mapping[str, Any]) -> None:
    """Write a table with a few values beside it.

    Raises:
        EnvironmentFault: The disk is full, failing or not writable.
    """
    table = table.replace_schema_metadata({"whisper_shard": json.dumps(meta)})
    with (
        output.writer.file(path) as file,
        pa.ipc.new_file(pa.PythonFile(file, mode="w"), table.schema) as writer,
    ):
        writer.write_table(table)


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return a table that `write_table` wrote, and the values beside it."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    return table, json.loads(table.schema.metadata[b"whisper_shard"])


def _describe(tars: Sequence[TarInput], config: IndexConfig) -> dict[str, Any]:
    files = list_text_files([tar.location for tar in tars], config)
    return {
        "state_version": STATE_VERSION,
        "settings": deciding_settings(config),
        "versions": dict(deciding_versions()),
        "tars": [[str(tar.location), tar.num_bytes, tar.version] for tar in tars],
        "texts": [[str(path), *stat_source(path)] for path in files],
    }


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
