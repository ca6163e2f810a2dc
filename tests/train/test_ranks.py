"""Ranks: the same training on one, two or three of them; one that is lost ends the job, and it goes on afterwards."""

import signal
from functools import partial

import numpy as np
import pytest
import torch

from tests.train.running import Kill, final_weights, lasting_metrics, launch, report_of, tiny_config
from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.train.gradient_sums import GradientSums
from whisper_shard.train.ranks import (
    Ranks,
    explain_lost_rank,
    gather_rows,
    gather_texts,
    join_ranks,
    sum_over_ranks,
)
from whisper_shard.train.run.metrics import read_metrics


@pytest.fixture(scope="module")
def alone(task, tmp_path_factory):
    run = tmp_path_factory.mktemp("ranks") / "alone"
    assert launch(task, run, steady_config(task))[0].exit_code == 0
    return run


def steady_config(task, **changes):
    return tiny_config(task, dropout=0.0, **changes)


def assert_same_training(run, other):
    ours, theirs = lasting_metrics(run), lasting_metrics(other)
    assert [(line["kind"], line["step"]) for line in ours] == [(line["kind"], line["step"]) for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        for name, value in expected.items():
            found = line[name]
            assert found == (pytest.approx(value, rel=2e-4) if isinstance(value, float) else value), (line, expected)
    for name, tensor in final_weights(run).items():
        torch.testing.assert_close(tensor, final_weights(other)[name], rtol=0, atol=2e-3)


def test_two_ranks_train_as_one(task, alone, tmp_path):
    assert [end.exit_code for end in launch(task, tmp_path / "run", steady_config(task), world=2)] == [0, 0]
    assert_same_training(tmp_path / "run", alone)


@pytest.mark.long
def test_three_ranks_train_as_one_and_all_notice_a_lost_one(task, alone, tmp_path):
    run = tmp_path / "run"
    ends = launch(task, run, steady_config(task), world=3, kill=Kill(step=3, rank=1))
    assert [end.exit_code for end in ends] == [1, -signal.SIGKILL, 1]
    for rank in (0, 2):
        assert f"rank {rank} of 3 lost contact with another rank, killed or failed" in ends[rank].message
    assert [end.exit_code for end in launch(task, run, steady_config(task), world=3)] == [0, 0, 0]
    assert_same_training(run, alone)


@pytest.mark.slow
def test_killed_rank_ends_the_job_and_another_number_of_ranks_goes_on(task, alone, tmp_path):
    run = tmp_path / "run"
    ends = launch(task, run, steady_config(task), world=2, kill=Kill(step=3, rank=1))
    assert [end.exit_code for end in ends] == [1, -signal.SIGKILL]
    assert "rank 0 of 2 lost contact with another rank, killed or failed" in ends[0].message
    assert "run the same command again: training goes on from the last checkpoint" in ends[0].message
    assert launch(task, run, steady_config(task))[0].exit_code == 0
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "resume"] == [2]
    assert_same_training(run, alone)
    delivered = [line for line in lasting_metrics(run) if line["kind"] == "epoch"]
    assert [line["is_complete"] for line in delivered] == [True] * 3


@pytest.mark.slow
def test_all_ranks_agree_to_stop_early_and_on_a_signal(task, tmp_path):
    run = tmp_path / "early"
    ends = launch(task, run, steady_config(task, lr=1e-30, patience=1), world=2)
    assert [end.exit_code for end in ends] == [0, 0]
    assert (report_of(run).stopped, report_of(run).steps) == ("early", 2)
    ends = launch(task, tmp_path / "signal", steady_config(task), world=2, kill=Kill(step=2, signal=signal.SIGTERM))
    assert [end.exit_code for end in ends] == [75, 75], "the signal went to one rank, all stopped after the same step"
    assert ends[0].message == ends[1].message


def test_alone_everything_is_its_own_sum():
    ranks = Ranks()
    rows = np.arange(6, dtype=np.int64).reshape(3, 2)
    assert gather_rows(rows, ranks)[0] is rows
    assert gather_texts(["a", "", "b"], ranks) == ["a", "b"]
    assert sum_over_ranks(torch.tensor([2.0]), ranks).item() == 2.0
    assert ranks.is_first


def test_half_a_torchrun_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT is not set"):
        join_ranks(torch.device("cpu"))


@pytest.mark.parametrize("error", [RuntimeError, torch.distributed.DistBackendError])
def test_lost_rank_is_one_line(error):
    message = r"rank 1 of 2 lost contact with another rank.*\(Connection closed\)"
    with pytest.raises(TrainingError, match=message), explain_lost_rank(Ranks(rank=1, world=2)):
        raise error("Connection closed\nat pair.cc:1")


NCCL_ERROR = """NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error, NCCL version 2.27.5
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
Last error: socketPollConnect: connect returned Connection refused"""


def sum_gradients(ranks):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    GradientSums([weight], ranks).finish()


@pytest.mark.parametrize(
    "sum_up", [sum_gradients, partial(sum_over_ranks, torch.ones(2)), partial(gather_rows, np.ones((1, 1), np.int64))]
)
def test_a_failure_of_nccl_is_a_lost_rank(monkeypatch, sum_up):
    """NCCL needs GPUs: its error is raised in place of the exchange."""

    def fail(*_, **__):
        raise torch.distributed.DistBackendError(NCCL_ERROR)

    for name in ("all_reduce", "all_gather"):
        monkeypatch.setattr(torch.distributed, name, fail)
    message = (
        r"^rank 1 of 2 lost contact with another rank, killed or failed \(NCCL error in: [^\n]*\); run the same "
        "command again: training goes on from the last checkpoint$"
    )
    with pytest.raises(TrainingError, match=message):
        sum_up(ranks=Ranks(rank=1, world=2))


def test_errors_of_one_process_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explain_lost_rank(Ranks()):
        raise RuntimeError("shapes")
