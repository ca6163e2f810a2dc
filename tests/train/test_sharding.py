"""Sharded over ranks, a run learns what one rank learns, and goes on sharded otherwise or not at all."""

import pytest

from tests.train.running import Kill, final_weights, lasting_metrics, launch, report_of, tiny_config
from whisper_shard.train.run.checkpoint import checkpoint_path, list_checkpoints

UNLIKE = 1e-4
"""Weights of a run that did something else are further apart."""


def sharded_config(task, **changes):
    """Settings whose result does not depend on the number of ranks but for rounding, with passes of one utterance."""
    return tiny_config(task, **{"dropout": 0.0, "micro_batch": 1, "batch_size": 8, "save_every": 2, **changes})


@pytest.fixture(scope="module")
def alone(task, tmp_path_factory):
    """The run of one rank."""
    run = tmp_path_factory.mktemp("sharding") / "alone"
    assert launch(task, run, sharded_config(task))[0].exit_code == 0
    return run


def assert_alike(run, other):
    ours, theirs = final_weights(run), final_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < UNLIKE, name
    losses = [[line["loss"] for line in lasting_metrics(folder) if line["kind"] == "train"] for folder in (run, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert report_of(run).wer == report_of(other).wer


@pytest.mark.parametrize("shard", ["states", "all"])
@pytest.mark.parametrize("world", [2, 4])
def test_a_sharded_run_learns_what_one_rank_learns(task, alone, tmp_path, shard, world):
    ends = launch(task, tmp_path / "run", sharded_config(task, shard=shard), world=world)
    assert [end.exit_code for end in ends] == [0] * world, ends
    assert_alike(tmp_path / "run", alone)
