"""Questions to an index of any length, answered piece by piece: the strings of millions never lie in memory at once."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import DatasetError


def find_common(many: Dataset, few: Dataset) -> NDArray[np.bool_]:
    """Return for each utterance of ``few`` whether its key, or its audio (length and checksum), is in ``many`` too.

    Raises:
        DatasetError: An index is damaged.
    """
    keys, audio = map(pa.chunked_array, zip(*_identities(few), strict=True))
    found_keys, found_audio = [], []
    # Looking up a piece begins with a table of all that is wanted: pieces no smaller than that keep the sum linear.
    for some_keys, some_audio in _identities(many, rows=few.num_utterances):
        found_keys.append(some_keys.filter(pc.is_in(some_keys, value_set=keys)))
        found_audio.append(some_audio.filter(pc.is_in(some_audio, value_set=audio)))
    return _is_in(keys, found_keys) | _is_in(audio, found_audio)


def find_first(dataset: Dataset, *names: str) -> Mapping[tuple[str, str], int]:
    """Return each (name, value) of some columns of strings, nulls left out, with the row it is first found in.

    Raises:
        DatasetError: The index is damaged.
    """
    found: dict[tuple[str, str], int] = {}
    start = 0
    for piece in dataset.pieces(*names):
        for name in names:
            for value in pc.unique(piece[name]).drop_null().to_pylist():
                if (name, value) not in found:
                    found[name, value] = start + pc.index(piece[name], value).as_py()
        start += len(piece)
    return found


def find_long_texts(dataset: Dataset, *, more_than_bytes: int) -> Iterator[tuple[int, str, str | None]]:
    """Yield row, text and language of the utterances whose texts have more bytes of UTF-8 than that.

    Raises:
        DatasetError: The index is damaged.
    """
    start = 0
    for piece in dataset.pieces("text", "language"):
        is_long = pc.greater(pc.binary_length(piece["text"]), more_than_bytes)
        rows = start + np.flatnonzero(is_long.to_numpy())
        found = piece.filter(is_long)
        yield from zip(rows.tolist(), found["text"].to_pylist(), found["language"].to_pylist(), strict=True)
        start += len(piece)


def find_key(dataset: Dataset, key: str) -> int | None:
    """Return the row of a key in the whole index, or None.

    Raises:
        DatasetError: The index is damaged.
    """
    start = 0
    for piece in dataset.pieces("key"):
        if (row := pc.index(piece["key"], key).as_py()) >= 0:
            return start + int(row)
        start += len(piece)
    return None


def find_keys(dataset: Dataset, keys: Sequence[str]) -> dict[str, int]:
    """Return the rows of those keys in the whole index that it has.

    Raises:
        DatasetError: The index is damaged.
    """
    wanted, found, start = pa.array(keys, pa.string()), dict[str, int](), 0
    for piece in dataset.pieces("key"):
        positions = pc.index_in(piece["key"], value_set=wanted).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(np.isfinite(positions.astype(np.float64)))
        found |= {keys[int(positions[row])]: start + int(row) for row in rows}
        start += len(piece)
    return found


def _identities(dataset: Dataset, rows: int = 0) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield what identifies utterances: their keys, and length and checksum of their audio as one number."""
    num_samples = dataset.columns("num_samples")["num_samples"]
    start = 0
    for piece in dataset.pieces("key", "audio_crc32", rows=rows):
        lengths = num_samples[start : start + len(piece)].astype(np.int64)
        audio = lengths << 32 | piece["audio_crc32"].to_numpy().astype(np.int64)
        # pa.array would import pandas, which takes longer than all this over a million rows.
        yield piece["key"].combine_chunks(), pa.Array.from_buffers(pa.int64(), len(audio), [None, pa.py_buffer(audio)])
        start += len(piece)


def _is_in(values: pa.ChunkedArray, found: list[pa.Array]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = pc.is_in(values, value_set=pa.chunked_array(found, values.type)).to_numpy()
    return flags


def check_texts(data: Dataset) -> None:
    """Check that a dataset has a text, or was prepared to hold recordings in which nobody speaks.

    Raises:
        DatasetError: None of its utterances has one.
    """
    if data.description.empty_texts != "keep" and not data.columns("num_chars")["num_chars"].any():
        raise DatasetError(
            f"{data.location}: none of its utterances has a text; a model writes them: whisper-shard score MODEL "
            f"{data.location} --write-columns NAME, then filter {data.location} VIEW --relabel NAME"
        )
