"""With ``--segment vad``, a recording without a text becomes any number of utterances, each where somebody speaks."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from whisper_shard.errors import AudioError
from whisper_shard.prepare.pipeline import Pipeline, out_of_memory, prepare_audio, prepare_row
from whisper_shard.report.quantities import describe_number
from whisper_shard.utterance import ManifestRow, Rejection, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class CutRow:
    """What a recording has become that was cut; it comes after its utterances."""

    row: ManifestRow
    """The recording."""
    seconds: float
    """Its length, as far as it was decoded."""
    kept_seconds: float
    """Length of its utterances that were kept, before trimming."""
    rest_seconds: float
    """Length of what belongs to no utterance."""
    num_kept: int
    """Utterances that were not rejected."""
    share: float
    """Share of the file that was read, 0 to 1."""
    rejection: Rejection | None
    """Why it was not cut to its end, or not at all; None: it was."""


def prepare_results(
    row: ManifestRow, pipeline: Pipeline, *, max_seconds: float = math.inf
) -> Iterator[Utterance | Rejection | CutRow]:
    """Yield what becomes of a row; of a recording that is cut, what becomes of each utterance, and a CutRow.

    Args:
        row: The row.
        pipeline: The steps.
        max_seconds: A recording that is cut is read so far only, up to the end of an utterance.

    Raises:
        OSError: The machine failed (I/O error, too many open files): not the row's fault.
    """
    if pipeline.cutter is None or not pipeline.is_cut(row):
        yield prepare_row(row, pipeline)
        return
    number = num_kept = 0
    seconds, used_seconds, kept_seconds, share = 0.0, 0.0, 0.0, 1.0
    fault: Rejection | None = None
    try:
        with pipeline.cutter.cutting(row, max_seconds=pipeline.max_seconds) as (cutter, file):
            for number, cut in enumerate(cutter.cut(), 1):
                part = replace(row, part=number - 1, start_seconds=cut.start_seconds, end_seconds=cut.end_seconds)
                result = prepare_audio(part, cut.recording, "", (), pipeline)
                used_seconds += cut.end_seconds - cut.start_seconds
                if isinstance(result, Utterance):
                    num_kept, kept_seconds = num_kept + 1, kept_seconds + cut.end_seconds - cut.start_seconds
                seconds = cutter.seconds
                yield result
                if cutter.seconds >= max_seconds:
                    share = _share_read(file)
                    break
            seconds = cutter.seconds
    except AudioError as error:
        fault = row.reject(error.reason, str(error))
    except MemoryError:
        fault = out_of_memory(row)
    if fault is not None and number:
        fault = replace(fault, detail=f"{fault.detail}; cut before that: {describe_number(number, 'utterance')}")
    elif fault is None and not number:
        fault = row.reject("no_speech", f"nobody speaks in its {seconds:.1f} s", seconds=seconds)
    yield CutRow(
        row=row,
        seconds=seconds,
        kept_seconds=kept_seconds,
        rest_seconds=max(0.0, seconds - used_seconds),
        num_kept=num_kept,
        share=share,
        rejection=fault,
    )


def _share_read(file: BinaryIO) -> float:
    position = file.tell()
    return min(1.0, position / max(file.seek(0, os.SEEK_END), 1)) or 1.0
