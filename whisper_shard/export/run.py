"""Export a model: write it in a format, compare the tool's texts with ours, and only then give the folder its name."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from whisper_shard.config.export import ExportConfig
from whisper_shard.errors import ConfigError, ExportError, suggest
from whisper_shard.export.consumers import open_consumer
from whisper_shard.export.formats import EXPORTS
from whisper_shard.export.parity import Parity, compare
from whisper_shard.export.samples import read_samples
from whisper_shard.model.device import set_threads
from whisper_shard.model.save import CARD_NAME
from whisper_shard.model.whisper import LoadedWhisper, hide_progress_bars, load_whisper
from whisper_shard.storage.atomic import write_json
from whisper_shard.storage.folder import atomic_folder

PARITY_NAME = "parity.json"
"""The comparison, beside the export."""
KEPT_FILES = (CARD_NAME, "LICENSE")
"""Files of the model's folder that every export keeps."""


def _ignore(_num_done: int, _num_total: int) -> None:
    """Do nothing: the default receiver of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """An export that was made."""

    folder: Path
    """Where it lies."""
    tool: str
    """What reads it."""
    dtype: str
    """Number format of the weights."""
    num_bytes: int
    """Of all its files."""
    parity: Parity | None
    """The comparison, if there was one."""


def export_model(
    model: str, out: Path, config: ExportConfig, progress: Callable[[int, int], None] = _ignore
) -> ExportReport:
    """Export a model.

    Args:
        model: Folder or hub name of the model.
        out: Folder to make; it may exist if it is empty.
        config: Settings of the command.
        progress: Called with the number of recordings compared, and of all.

    Raises:
        ExportError: The folder is not empty, the format cannot hold the model, or the texts differ by more than the
            tolerance; the folder is not made then.
        ModelError: The model cannot be used.
        ConfigError: A library or the tool is missing.
        DatasetError: The dataset to compare on cannot be read.
        AudioError: A recording to compare on cannot be read.
        EnvironmentFault: The folder cannot be written.
    """
    if config.format not in EXPORTS:
        hint = suggest(config.format, list(EXPORTS))
        raise ConfigError(f"--format {config.format}: unknown format; known are {', '.join(EXPORTS)}{hint}")
    export = EXPORTS[config.format]
    dtype = export.choose_dtype(config.quantize, config.format)
    _check_empty(out)
    threads = set_threads(config.threads)
    samples = read_samples(config.check, limit=config.samples) if config.check else []
    loaded = load_whisper(model)
    parity = None
    with atomic_folder(out) as folder, hide_progress_bars():
        export.write(loaded, folder, dtype)
        _keep_files(loaded, folder)
        if samples:
            consumer = open_consumer(config.format, loaded, folder, threads)
            parity = compare(loaded, consumer, samples, language=config.language, progress=progress)
            _check_parity(parity, config.tolerance, out)
            write_json(folder / PARITY_NAME, asdict(parity))
    num_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return ExportReport(folder=out, tool=export.tool, dtype=dtype, num_bytes=num_bytes, parity=parity)


def _check_empty(out: Path) -> None:
    """Check that there is nothing that an export would replace.

    Raises:
        ExportError: The folder holds something, or is a file.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out}: exists and is not an empty folder; choose a new folder, or remove it")


def _keep_files(loaded: LoadedWhisper, folder: Path) -> None:
    """Copy the model card and the licence, where the model lies in a folder."""
    for name in KEPT_FILES:
        source = Path(loaded.path) / name
        if source.is_file():
            shutil.copyfile(source, folder / name)


def _check_parity(parity: Parity, tolerance: float, out: Path) -> None:
    """Check that the tool transcribes like the model.

    Raises:
        ExportError: It does not; names the first utterance that differs.
    """
    if parity.disagreement <= tolerance:
        return
    first = next(row for row in parity.differences if not row.timestamps)
    raise ExportError(
        f"{out}: not exported, since the texts of {parity.package} differ from ours by {parity.disagreement:.2%} WER, "
        f"more than --tolerance {tolerance:g}; the first, {first.key}: ours {first.ours[:80]!r}, theirs "
        f"{first.theirs[:80]!r}; choose another --quantize or a higher --tolerance"
    )
