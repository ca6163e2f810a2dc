"""Check a tar that others wrote: every body that the index names, in one pass over the tar.

What lies between the bodies is not ours to know; it is covered by the sha256 of the tar.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from isal.isal_zlib import crc32

from whisper_shard.audio.foreign import decode_foreign
from whisper_shard.audio.recording import Decoder
from whisper_shard.dataset.reader import suffix_of
from whisper_shard.dataset.schema import ForeignDetails, Place
from whisper_shard.errors import DatasetError

_READ_BYTES = 8 << 20


class _Body(NamedTuple):
    offset: int
    num_bytes: int
    crc32: int
    row: int
    is_audio: bool


def check_foreign_members(
    read: Callable[[int], bytes],
    digest: Any,
    places: list[Place],
    details: list[ForeignDetails],
    decoders: tuple[Decoder, ...],
) -> Iterator[tuple[str, str]]:
    """Yield key and detail of each difference between a tar and its index.

    Args:
        read: Returns so many of the next bytes of the tar, fewer only at its end.
        digest: Is updated with every byte.
        places: Of the utterances of the tar.
        details: The rest of the index, in the same order.
        decoders: For the audio.
    """
    position, last, body = 0, (0, 0), b""
    for wanted in _bodies(places):
        key = places[wanted.row].key
        if wanted[:2] != last:
            if wanted.offset < position:
                yield key, f"its bytes from {wanted.offset} on belong to another member, too; index the tar again"
                return
            _skip(read, digest, wanted.offset - position)
            body = read(wanted.num_bytes)
            digest.update(body)
            position, last = wanted.offset + wanted.num_bytes, wanted[:2]
        if (found := crc32(body)) != wanted.crc32:
            what = "audio" if wanted.is_audio else "text"
            yield key, f"{what} at byte {wanted.offset} has crc32 {found:08x}, the index says {wanted.crc32:08x}"
        elif wanted.is_audio and (fault := _find_fault(body, places[wanted.row], details[wanted.row], decoders)):
            yield key, fault
    _skip(read, digest, None)


def _bodies(places: list[Place]) -> list[_Body]:
    audio = [_Body(p.audio_offset, p.audio_bytes, p.audio_crc32, row, True) for row, p in enumerate(places)]
    texts = [_Body(p.json_offset, p.json_bytes, p.json_crc32, row, False) for row, p in enumerate(places)]
    return sorted(audio + [body for body in texts if body.num_bytes])


def _skip(read: Callable[[int], bytes], digest: Any, num_bytes: int | None) -> None:
    """Hash what comes before the next body; None: the rest of the tar."""
    while (wanted := _READ_BYTES if num_bytes is None else min(num_bytes, _READ_BYTES)) and (piece := read(wanted)):
        digest.update(piece)
        num_bytes = None if num_bytes is None else num_bytes - len(piece)


def _find_fault(body: bytes, place: Place, details: ForeignDetails, decoders: tuple[Decoder, ...]) -> str | None:
    try:
        decode_foreign(
            body,
            suffix=suffix_of(details.source),
            decoders=decoders,
            start=details.audio_start,
            num_samples=place.num_samples,
        )
    except DatasetError as error:
        return str(error)
    return None
