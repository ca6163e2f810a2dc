"""The metrics of a run: ``metrics.jsonl``, one JSON object a line, and the same numbers for TensorBoard.

A line has ``kind`` (train, watch, eval, also, progress, epoch, skip, resume, warning, final) and ``step``. All but the
fields in TIMING are functions of data, settings and seed: a run that was killed and resumed has the same lines as one
that was not. Numbers that are not finite become null, since JSON has none.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from whisper_shard.storage.atomic import as_environment_fault, atomic_file, finite_or_none

METRICS_NAME = "metrics.jsonl"
TIMING = frozenset(
    {
        "seconds", "utterances_per_second", "audio_seconds_per_second", "padded_seconds_per_second", "data_wait_share",
        "reads", "mb_read",
    }
)  # fmt: skip
"""Fields that differ from run to run."""
_FINAL_KINDS = frozenset({"warning", "final"})  # written after the last checkpoint, with its step


class MetricsLog:
    """Appends lines to metrics.jsonl and scalars to TensorBoard; use as a context manager.

    Args:
        run: The run folder.
        step: Steps made when the run begins or resumes; lines of later steps, which will be made again, are removed.
        is_first: Whether this rank writes; the others do nothing.
        tensorboard: Whether to write for TensorBoard as well.

    Raises:
        EnvironmentFault: The disk is full or cannot be written.
    """

    def __init__(self, run: Path, *, step: int, is_first: bool = True, tensorboard: bool = True) -> None:
        self._file = None
        self._board: Any = None
        self._path = run / METRICS_NAME
        if not is_first:
            return
        path = self._path
        cut_lines_after(path, step)
        with _explain_faults(path):
            self._file = path.open("a")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> "MetricsLog":
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both files."""
        with _explain_faults(self._path):
            if self._file is not None:
                self._file.close()
            if self._board is not None:
                self._board.close()

    def write(self, kind: str, step: int, **fields: Any) -> None:
        """Append one line; numbers also become the TensorBoard scalars ``<kind>/<field>``, or
        ``<kind>/<dataset>/<field>``.

        Raises:
            EnvironmentFault: The disk is full or cannot be written.
        """
        if self._file is None:
            return
        with _explain_faults(self._path):
            finite = {name: finite_or_none(value) for name, value in fields.items()}
            self._file.write(json.dumps({"kind": kind, "step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()
            if self._board is not None:
                group = "/".join(filter(None, (kind, fields.get("dataset"))))
                for name, value in fields.items():
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        self._board.add_scalar(f"{group}/{name}", value, step)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return all complete lines of a run's metrics.jsonl, without those that a kill or a power loss has damaged."""
    path = run / METRICS_NAME
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
    return [value for line in lines if line.endswith("\n") and (value := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def cut_lines_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, the final ones, and a last line that is incomplete.

    A run whose end was interrupted comes to its end again, and then writes the final lines again.
    """
    lines = read_metrics(path.parent)
    with atomic_file(path) as file:
        for line in lines:
            if line["step"] <= step and line["kind"] not in _FINAL_KINDS:
                file.write(json.dumps(line).encode() + b"\n")


@contextmanager
def _explain_faults(path: Path) -> Iterator[None]:
    """Turn an OSError into one line that says what to do.

    Raises:
        EnvironmentFault: The disk is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise as_environment_fault(error, path) from error
