import itertools
import json

import numpy as np
import pyarrow as pa
import pytest

from whisper_shard.errors import ManifestError
from whisper_shard.manifests.rows import MANIFEST_SCHEMA
from whisper_shard.prepare.order import RowGroups, order_rows, rank_rows


def collect(rows, split_by=""):
    groups = RowGroups(split_by=split_by)
    base = {"transcript": "text"}
    for start in range(0, len(rows), 7):  # in batches, as a manifest is read
        lines = [{**base, "row": i, **row} for i, row in enumerate(rows[start : start + 7], start)]
        groups.add(pa.Table.from_pylist(lines, schema=MANIFEST_SCHEMA))
    return groups


def order_of(rows, *, eval_fraction=0.1, seed=42, split_by=""):
    found = order_rows(len(rows), collect(rows, split_by), seed=seed, eval_fraction=eval_fraction)
    order = np.argsort(found.ranks).tolist()
    assert sorted(order) == list(range(len(rows)))
    return order, found.num_eval


def test_order_is_frozen():
    # A change here changes every dataset ever prepared: it needs a new format version.
    assert rank_rows(8, 42).tolist() == [6, 1, 7, 4, 3, 5, 2, 0]


def test_rows_of_whole_recordings_are_in_plain_random_order():
    rows = [{"source": f"{i}.wav"} for i in range(40)]
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
    with pytest.raises(ManifestError, match=r"all 12 rows are of one recording, .*--eval-corpus, or .*-fraction"):
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


def sides_of(rows, name, **settings):
    order, num_eval = order_of(rows, **settings)
    values = [json.loads(rows[i]["extra"]).get(name) if name == "room" else rows[i].get(name) for i in order]
    return set(values[:num_eval]), set(values[num_eval:]), num_eval


def test_a_recording_that_occurs_twice_is_on_one_side():
    rows = [{"source": f"{i // 2}.wav", "channel": i % 2} for i in range(100)]
    evaluation, training, num_eval = sides_of(rows, "source")
    assert num_eval == 10
    assert not evaluation & training


@pytest.mark.parametrize(("split_by", "name"), [("speaker", "speaker"), ("room", "room"), ("recording", "source")])
def test_no_value_of_the_column_is_on_both_sides(split_by, name):
    rows = [
        {"source": f"{i}.wav", "speaker": f"s{i % 23}", "extra": json.dumps({"room": f"r{i % 31}"})} for i in range(400)
    ]
    for seed in range(10):
        evaluation, training, num_eval = sides_of(rows, name, split_by=split_by, seed=seed)
        assert not evaluation & training
        assert evaluation
        assert abs(num_eval - 40) <= 9  # half a speaker has 9 rows
    assert order_of(rows, split_by=split_by, seed=1) == order_of(rows, split_by=split_by, seed=1)
    assert order_of(rows, split_by=split_by, seed=1) != order_of(rows, split_by=split_by, seed=2)


def test_a_large_speaker_is_not_taken_for_a_small_evaluation_set():
    rows = [{"source": f"{i}.wav", "speaker": "large" if i < 600 else f"s{i % 40}"} for i in range(1000)]
    for seed in range(20):
        evaluation, _, num_eval = sides_of(rows, "speaker", split_by="speaker", seed=seed)
        assert num_eval == 100
        assert "large" not in evaluation


def test_a_recording_of_two_speakers_keeps_them_on_one_side():
    rows = [
        {"source": f"{i}.wav", "speaker": f"s{(i + turn) % 60}", "start_seconds": 1.0 * turn}
        for i in range(0, 60, 2)
        for turn in (0, 1)
    ]
    rows += [{"source": "0.wav", "speaker": "s9", "start_seconds": 9.0}]
    order, num_eval = order_of(rows, split_by="speaker", eval_fraction=0.3)
    for name in ("source", "speaker"):
        values = [rows[i][name] for i in order]
        assert not set(values[:num_eval]) & set(values[num_eval:])


def test_rows_without_the_value_are_on_one_side():
    rows = [{"source": f"{i}.wav", "speaker": f"s{i % 10}" if i % 4 else None} for i in range(200)]
    evaluation, training, _ = sides_of(rows, "speaker", split_by="speaker")
    assert not evaluation & training


def test_rows_of_a_block_lie_together_where_speakers_are_split():
    rows = [{"source": f"{i}.wav", "block": i // 20, "speaker": f"s{i % 9}"} for i in range(200)]
    order, num_eval = order_of(rows, eval_fraction=0.3, split_by="speaker")
    for part in (order[:num_eval], order[num_eval:]):
        blocks = [i // 20 for i in part]
        assert sum(a != b for a, b in itertools.pairwise(blocks)) == len(set(blocks)) - 1


@pytest.mark.parametrize(
    ("split_by", "message"),
    [
        ("speaker", r"--split-by speaker: no row of the manifest has a value in a column of that name"),
        (
            "rom",
            r"--split-by rom: no row of the manifest has a value in a column of that name; give speaker, recording",
        ),
        ("room", r"all 30 rows have the same room, or are connected by it, so no evaluation set can be split off"),
    ],
)
def test_what_cannot_be_split_by_is_named(split_by, message):
    rows = [{"source": f"{i}.wav", "extra": '{"room": "a"}'} for i in range(30)]
    with pytest.raises(ManifestError, match=message):
        order_of(rows, split_by=split_by)
