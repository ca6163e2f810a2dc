import itertools

import numpy as np
import pyarrow as pa
import pytest

from whisper_shard.errors import ManifestError
from whisper_shard.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.prepare.order import RowGroups, order_rows, rank_rows


def collect(rows):
    groups = RowGroups()
    base = {"transcript": "text"}
    for start in range(0, len(rows), 7):  # in batches, as a manifest is read
        lines = [{**base, "row": i, **row} for i, row in enumerate(rows[start : start + 7], start)]
        groups.add(pa.Table.from_pylist(lines, schema=MANIFEST_SCHEMA))
    return groups


def order_of(rows, *, eval_fraction=0.1, seed=42):
    found = order_rows(len(rows), collect(rows), seed=seed, eval_fraction=eval_fraction)
    order = np.argsort(found.ranks).tolist()
    assert sorted(order) == list(range(len(rows)))
    return order, found.num_eval


def test_order_is_frozen():
    # A change here changes every dataset ever prepared: it needs a new format version.
    assert rank_rows(8, 42).tolist() == [6, 1, 7, 4, 3, 5, 2, 0]


def test_rows_of_whole_recordings_are_in_plain_random_order():
    rows = [{"source": f"{i % 5}.wav"} for i in range(40)]
    order, num_eval = order_of(rows)
    assert order == np.argsort(rank_rows(40, 42)).tolist()
    assert num_eval == 4


def test_segments_of_a_recording_lie_together_in_the_order_of_their_beginnings():
    rows = [{"source": f"{i % 8}.wav", "start_seconds": float(100 - i)} for i in range(80)]
    order, num_eval = order_of(rows)
    recordings = [i % 8 for i in order]
    assert [recordings[i : i + 10] for i in range(0, 80, 10)] == [[recordings[i]] * 10 for i in range(0, 80, 10)]
    starts = [rows[i]["start_seconds"] for i in order]
    assert all(starts[i : i + 10] == sorted(starts[i : i + 10]) for i in range(0, 80, 10))
    assert recordings[::10] != sorted(recordings[::10])
    assert num_eval == 10  # a whole recording, not the 8 rows that were asked for
    assert order_of(rows, seed=43)[0] != order


def test_a_file_found_under_another_path_is_the_same_recording():
    rows = [{"source": name, "file": "a.wav", "start_seconds": 1.0} for name in ("a", "a.wav", "A.wav")]
    rows += [{"source": f"{i}.wav", "end_seconds": 1.0} for i in range(9)]
    order, _ = order_of(rows)
    places = sorted(order.index(i) for i in range(3))
    assert places == list(range(places[0], places[0] + 3))


def test_evaluation_set_never_shares_a_recording_with_training():
    sizes = [1, 30, 2, 5, 50, 4, 8]
    rows = [{"source": f"{n}.wav", "end_seconds": 1.0 + i} for n, size in enumerate(sizes) for i in range(size)]
    for seed in range(20):
        order, num_eval = order_of(rows, seed=seed)
        assert 0 < num_eval < len(rows)
        names = [rows[i]["source"] for i in order]
        assert not set(names[:num_eval]) & set(names[num_eval:])


def test_one_recording_cannot_be_split():
    rows = [{"source": "long.wav", "start_seconds": float(i)} for i in range(12)]
    with pytest.raises(
        ManifestError, match=r"all 12 rows are segments of one recording, .*--eval-corpus, or .*-fraction"
    ):
        order_of(rows)
    order, num_eval = order_of(rows, eval_fraction=0.0)
    assert (order, num_eval) == (list(range(12)), 0)


def test_rows_of_a_block_lie_together_within_each_set():
    rows = [{"source": f"{i}.wav", "block": i // 20} for i in range(200)]
    order, num_eval = order_of(rows, eval_fraction=0.25)
    assert num_eval == 50
    assert set(order[:50]) == set(np.argsort(rank_rows(200, 42))[:50].tolist())  # drawn row by row
    for part in (order[:50], order[50:]):
        blocks = [i // 20 for i in part]
        changes = sum(a != b for a, b in itertools.pairwise(blocks))
        assert changes == len(set(blocks)) - 1
        assert all(a < b for a, b in itertools.pairwise(part) if a // 20 == b // 20)
