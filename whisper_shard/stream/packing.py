"""What the plan knows of the corpus: units, each an utterance or a window packed with several.

Packing joins short utterances of one speaker, or of one recording, into windows of up to 30 s. Which utterances share
a window is drawn once from the seed and from durations in the index, before any audio is read; their order and the
pauses between them are drawn anew each epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whisper_shard.dataset.index import Dataset
from whisper_shard.errors import ConfigError
from whisper_shard.keyed_random import draw_permutation, draw_uniform, draw_words
from whisper_shard.stream.units import Units
from whisper_shard.utterance import MAX_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which utterances share a window."""

    members: NDArray[np.int32]
    """Utterances, window by window."""
    starts: NDArray[np.int64]
    """Where each window's members start; one more entry at the end."""
    gap_samples: tuple[int, int]
    """Range of the pauses between two members, both ends included."""
    seed: int
    """Seed of order and pauses."""

    def members_of(self, units: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the utterances of some windows, in no particular order."""
        counts = self.starts[units + 1] - self.starts[units]
        places = np.repeat(self.starts[units] - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        return self.members[places]

    def arrange(self, epoch: int, unit: int) -> list[tuple[int, int]]:
        """Return (utterance, samples of silence before it) for each member of a window, in this epoch's order."""
        members = self.members[self.starts[unit] : self.starts[unit + 1]]
        order = draw_permutation(len(members), self.seed, "order", epoch, unit)
        low, high = self.gap_samples
        gaps = low + (draw_uniform(len(members), self.seed, "gaps", epoch, unit) * (high - low + 1)).astype(np.int64)
        gaps[:1] = 0
        return list(zip(members[order].tolist(), gaps.tolist(), strict=True))


def read_units(datasets: Sequence[Dataset]) -> Units:
    """Read lengths of audio and text from the indexes: every utterance is a unit."""
    columns = [dataset.columns("num_samples", "num_chars") for dataset in datasets]
    return Units(
        num_samples=_join([c["num_samples"] for c in columns]),
        num_chars=_join([c["num_chars"] for c in columns]),
        shard_sizes=tuple(np.array([s.num_utterances for s in d.shards], np.int64) for d in datasets),
    )


def _join(columns: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Put columns end to end; a single one stays where it is mapped."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def read_groups(datasets: Sequence[Dataset], pack_by: str) -> NDArray[np.int64]:
    """Return a number for each utterance: equal where speaker or source, language and task are; -1 where unknown."""
    groups, offset = [], 0
    for dataset in datasets:
        codes = dataset.codes(pack_by).astype(np.int64)
        unknown = codes < 0
        for name in ("language", "task"):
            more = dataset.codes(name)
            codes = codes * (int(more.max(initial=-1)) + 2) + more + 1
        codes = np.unique(codes, return_inverse=True)[1] + offset
        offset += len(codes)
        codes[unknown] = -1
        groups.append(codes)
    return np.concatenate(groups)


def keep_alone(groups: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.int64]:
    """Return the groups with -1 for utterances that are not to be packed.

    Args:
        groups: For each utterance the group it may share a window with; -1 stays alone.
        share: Probability that an utterance is packed, 0 to 1.
        seed: Seed of who is.
    """
    if share >= 1.0:
        return groups
    return np.where(draw_uniform(len(groups), seed, "pack share") < share, groups, -1)


def pack_units(
    units: Units, groups: NDArray[np.int64], *, gap_seconds: tuple[float, float], seed: int
) -> tuple[Units, Windows]:
    """Pack utterances of one group into windows that never exceed 30 s, whatever pauses are drawn.

    Args:
        units: The utterances.
        groups: For each utterance the group it may share a window with; -1 stays alone.
        gap_seconds: Shortest and longest pause between two utterances.
        seed: Seed of who meets whom.

    Raises:
        ConfigError: The pauses are no range of seconds from 0 to 30.
    """
    if not 0.0 <= gap_seconds[0] <= gap_seconds[1] <= 30.0:
        raise ConfigError(
            f"--pack-gap-seconds {gap_seconds[0]:g} {gap_seconds[1]:g}: need 0 <= shortest <= longest <= 30"
        )
    gaps = (round(gap_seconds[0] * SAMPLE_RATE), round(gap_seconds[1] * SAMPLE_RATE))
    order = np.lexsort((draw_words(len(groups), seed, "pack"), groups))
    cuts = _window_starts(units.num_samples[order].astype(np.int64) + gaps[1], groups[order], MAX_SAMPLES + gaps[1])
    counts = np.diff(np.append(cuts, len(order)))
    # Windows come in the order of their first utterance in the index, so that a stretch of them touches few shards.
    homes = np.minimum.reduceat(order, cuts) if len(cuts) else np.empty(0, np.int64)
    by_home = np.argsort(homes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts[by_home])])
    places = np.repeat(cuts[by_home] - starts[:-1], counts[by_home]) + np.arange(len(order))
    members = order[places].astype(np.int32)
    windows = Windows(members=members, starts=starts, gap_samples=gaps, seed=seed)
    return _units_of_windows(units, windows, homes[by_home]), windows


def _window_starts(lengths: NDArray[np.int64], groups: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Cut a list into windows: each takes members of one group while their lengths fit; group -1 stays alone."""
    if not len(lengths):
        return np.empty(0, np.int64)
    ends = np.cumsum(lengths)
    fits = np.searchsorted(ends, ends - lengths + capacity, side="right")
    group_ends = np.searchsorted(groups, groups, side="right")
    places = np.arange(len(lengths))
    following = np.where(groups < 0, places + 1, np.maximum(np.minimum(fits, group_ends), places + 1)).tolist()
    starts, place = [], 0
    while place < len(following):
        starts.append(place)
        place = following[place]
    return np.array(starts)


def _units_of_windows(units: Units, windows: Windows, homes: NDArray[np.int64]) -> Units:
    counts = np.diff(windows.starts)
    longest_gaps = (counts - 1) * windows.gap_samples[1]

    def total(values: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.add.reduceat(values[windows.members], windows.starts[:-1], dtype=np.int64) if len(counts) else counts

    sizes = []
    end = 0
    for shard_sizes in units.shard_sizes:
        edges = end + np.concatenate([[0], np.cumsum(shard_sizes)])
        sizes.append(np.diff(np.searchsorted(homes, edges)))
        end = int(edges[-1])
    return Units(
        num_samples=(total(units.num_samples) + longest_gaps).astype(np.int32),
        num_chars=(total(units.num_chars) + counts - 1).astype(np.int32),
        shard_sizes=tuple(sizes),
    )
