import tracemalloc

import numpy as np
import pytest

from tests.prepare.corpora import write_csv
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import StateError
from whisper_shard.prepare import plan as plans
from whisper_shard.storage.atomic import ignore_step


def lay_out(tmp_path, count, *, shard_rows=32, **knobs):
    config = PrepareConfig(**knobs)
    corpus = write_csv(tmp_path / "corpus.csv", [(f"{i}.wav", f"text {i}") for i in range(count)])
    spools = {"train": plans.spool_manifest(corpus, tmp_path / "train.spool", config)}
    ranks = {"train": plans.rank_rows(count, config.seed)}
    plan = plans.write_plan(tmp_path, spools, ranks, config=config, shard_rows=shard_rows, on_step=ignore_step)
    return corpus, plan


def rows_in(split):
    shards = [plans.read_shard_rows(split.rows, shard).column("row").to_pylist() for shard in range(split.num_shards)]
    return shards, [row for shard in shards for row in shard]


@pytest.mark.parametrize("bucket_bytes", [64_000_000, 2_000])
def test_every_row_once_in_the_order_of_the_ranks(tmp_path, monkeypatch, bucket_bytes):
    monkeypatch.setattr(plans, "BUCKET_BYTES", bucket_bytes)
    _, plan = lay_out(tmp_path, 500)
    train, evaluation = plan.splits
    order = np.argsort(plans.rank_rows(500, 42)).tolist()
    shards, rows = rows_in(train)
    assert rows_in(evaluation)[1] + rows == order
    assert (evaluation.num_rows, train.num_rows) == (50, 450)
    assert {len(shard) for shard in shards[:-1]} == {32}
    assert not list(tmp_path.glob("*.bucket*"))


def test_order_is_frozen():
    # A change here changes every dataset ever prepared: it needs a new format version.
    assert plans.rank_rows(8, 42).tolist() == [6, 1, 7, 4, 3, 5, 2, 0]


def test_shards_are_as_large_as_asked_but_never_too_few():
    assert plans.choose_shard_rows(10_000_000, 318_000, 256) == 790
    assert plans.choose_shard_rows(3_000, 30_000, 256) == 180
    assert plans.choose_shard_rows(10, 30_000, 256) == 32
    assert plans.choose_shard_rows(10_000, 0, 1) == 480


def test_splits():
    assert plans.split_ranks({"train": 100}, 0.1) == {"train": (10, 100), "eval": (0, 10)}
    assert plans.split_ranks({"train": 1}, 0.5) == {"train": (0, 1)}
    assert plans.split_ranks({"train": 100}, 0.0) == {"train": (0, 100)}
    assert plans.split_ranks({"train": 7, "eval": 3}, 0.5) == {"train": (0, 7), "eval": (0, 3)}


def test_plan_is_found_again_and_refused_for_other_knobs(tmp_path):
    corpus, plan = lay_out(tmp_path, 50)
    config = PrepareConfig(jobs=7, decode_timeout_seconds=3.0)
    assert plans.open_plan(tmp_path, tmp_path, {"train": corpus}, config) == plan
    with pytest.raises(StateError, match=r"another configuration: codec was \"npy\", is \"flac\"; choose another"):
        plans.open_plan(tmp_path, tmp_path, {"train": corpus}, PrepareConfig(codec="flac"))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(StateError, match=r"plan.json: damaged .*give --rebuild"):
        plans.open_plan(tmp_path, tmp_path, {"train": corpus}, config)


def test_rows_are_never_all_in_memory_as_objects(tmp_path):
    tracemalloc.start()
    lay_out(tmp_path, 60_000, shard_rows=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # the CSV batch of 50,000 rows is the largest thing
