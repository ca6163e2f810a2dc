"""An utterance becomes the two members that a shard holds of it: audio and json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_hexdigest

from whisper_shard.audio.members import ENCODERS
from whisper_shard.audio.samples import to_int16
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.schema import IndexRow
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.prepare.plan import ShardPlan
from whisper_shard.utterance import Quality, Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedUtterance:
    """An utterance as it is written into a shard."""

    key: str
    """Its name."""
    audio: bytes
    """The body of its audio member."""
    num_samples: int
    """Length of its waveform."""
    row: int
    """Position of its row in the manifest."""
    record: Mapping[str, object]
    """What its json member holds."""
    quality: Quality | None
    """What was measured."""
    audio_hash: str
    """Hash of its samples."""
    times: tuple[float | None, float | None]
    """Where it begins and ends in its recording, in seconds; None: at the end of that."""


def by_length(utterance: EncodedUtterance) -> tuple[int, int, float]:
    """Return by what the utterances of a shard are sorted."""
    return utterance.num_samples, utterance.row, utterance.times[0] or 0.0


def encode_utterance(utterance: Utterance, config: PrepareConfig) -> EncodedUtterance:
    """Encode an utterance; its waveform is overwritten."""
    # Peak normalization returns a new array within [-1, 1], which may serve as scratch space and need not be clipped.
    is_normalized = config.peak > 0
    samples = to_int16(utterance.waveform, overwrite=is_normalized, is_within=is_normalized)
    return EncodedUtterance(
        key=utterance.key,
        audio=ENCODERS[config.codec](samples),
        num_samples=len(samples),
        row=utterance.row.row,
        record=_as_record(utterance),
        quality=utterance.quality,
        audio_hash=hash_samples(samples),
        times=(utterance.row.start_seconds, utterance.row.end_seconds),
    )


def _as_record(utterance: Utterance) -> dict[str, object]:
    row = utterance.row
    own: dict[str, object] = {
        "text": utterance.text,
        "transcript": row.transcript,
        "seconds": utterance.seconds,
        "source": row.source,
        "row": row.row,
    }
    known = {
        "language": row.language,
        "speaker": row.speaker,
        "task": row.task,
        "start_seconds": row.start_seconds,
        "end_seconds": row.end_seconds,
        "channel": row.channel,
    }
    extra = row.extra
    if utterance.phrases:
        extra = {name: value for name, value in extra.items() if name != "segments"}
        own["segments"] = [asdict(phrase) for phrase in utterance.phrases]
    return {
        **_rename_reserved(extra, {*own, *known}),
        **{name: value for name, value in known.items() if value is not None},
        **own,
    }


def _rename_reserved(extra: Mapping[str, object], reserved: set[str]) -> dict[str, object]:
    """Put ``manifest_`` before the names of manifest columns that mean something else in a record."""
    renamed = {}
    for name, value in extra.items():
        free = name
        while free in reserved or (free != name and free in extra):
            free = f"manifest_{free}"
        renamed[free] = value
    return renamed


def write_tar(
    shard: ShardPlan, utterances: Sequence[EncodedUtterance], *, suffix: str
) -> tuple[ShardInfo, list[IndexRow]]:
    """Write the tar of a shard, or remove an old one if there are no utterances."""
    if not utterances:
        shard.split.output.remove(shard.tar)
        return ShardInfo(name=shard.name, num_bytes=0, sha256="", num_utterances=0), []
    with shard.split.output.writer.file(shard.tar) as file:
        writer = ShardWriter(file, shard=shard.number)
        for utterance in utterances:
            writer.add(
                key=utterance.key,
                audio=utterance.audio,
                suffix=suffix,
                num_samples=utterance.num_samples,
                record=utterance.record,
            )
        writer.close()
    info = ShardInfo(name=shard.name, num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=len(utterances))
    return info, writer.rows


def hash_samples(samples: NDArray[np.int16]) -> str:
    """Return the 128 bits of XXH3 of an utterance's samples, in hexadecimal digits.

    That any two of 10^9 different utterances have the same has a chance of 10^-21. It guards against mistakes, not
    against those who look for two that have the same: it costs less than a cryptographic hash.

    Source: https://github.com/Cyan4973/xxHash.
    """
    return xxh3_128_hexdigest(np.ascontiguousarray(samples).data)
