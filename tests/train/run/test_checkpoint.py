"""Checkpoints: whole or absent, verified, and all that resumes."""

import errno
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.running import on_ranks
from whisper_shard.errors import EnvironmentFault, StateError
from whisper_shard.model.weights import load_weights, model_weights
from whisper_shard.train.run import checkpoint
from whisper_shard.train.run.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    read_tensors,
    save_checkpoint,
)
from whisper_shard.train.run.snapshot import (
    capture_optimizer,
    capture_random,
    copy_own_tensors,
    restore_optimizer,
    restore_random,
)


def save(folder, step, *, keep=(), value=1.0):
    tensors = {"model": {"weight": torch.full((3, 4), value)}, "optimizer": {"step/weight": torch.tensor(7.0)}}
    return save_checkpoint(folder, step=step, tensors=tensors, state={"updates": step, "best": None}, keep=keep)


def refuse_warning(text):
    raise AssertionError(text)


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path / "checkpoints", 12, value=1.5)
    found = load_latest(tmp_path / "checkpoints", warn=refuse_warning)
    assert found.step == 12
    assert found.state["updates"] == 12
    assert found.tensors["model"]["weight"].tolist() == [[1.5] * 4] * 3
    assert found.tensors["optimizer"]["step/weight"].item() == 7.0
    assert read_tensors(found.folder, "model")["weight"].shape == (3, 4)


def test_no_checkpoint_is_none(tmp_path):
    assert load_latest(tmp_path / "checkpoints", warn=refuse_warning) is None


def test_last_two_and_the_best_stay(tmp_path):
    for step in (0, 10, 20, 30, 40):
        save(tmp_path, step, keep=[10])
    assert list_checkpoints(tmp_path) == [10, 30, 40]
    save(tmp_path, 50, keep=[40])
    assert list_checkpoints(tmp_path) == [40, 50]


def test_leftovers_of_a_killed_run_are_swept(tmp_path):
    (tmp_path / "step-00000007.tmp.123").mkdir()
    (tmp_path / "step-00000007.tmp.123" / "model.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path, warn=refuse_warning) is None, "half a checkpoint is none"
    save(tmp_path, 9)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000009"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, name, fault):
    save(tmp_path, 1)
    save(tmp_path, 2)
    victim = checkpoint_path(tmp_path, 2) / name
    data = victim.read_bytes()
    if fault == "remove":
        victim.unlink()
    else:
        position = len(data) - 6
        victim.write_bytes(
            data[:position] + (bytes([data[position] ^ 1]) + data[position + 1 :] if fault == "flip" else b"")
        )
    warnings = []
    assert load_latest(tmp_path, warn=warnings.append).step == 1
    assert "step-00000002" in warnings[0]
    assert "going back to the checkpoint before it" in warnings[0]
    save(tmp_path, 2)
    assert load_latest(tmp_path, warn=refuse_warning).step == 2


def test_damaged_newer_ones_do_not_push_out_good_ones(tmp_path):
    for step in (1, 2, 9):
        save(tmp_path, step)
    save(tmp_path, 3)
    assert list_checkpoints(tmp_path) == [2, 3]


def test_only_damaged_ones_is_an_error(tmp_path):
    path = save(tmp_path, 1)
    (path / "state.json").write_text("{}")
    with pytest.raises(StateError, match=r"all of its 1 checkpoints are damaged; start again in another run folder"):
        load_latest(tmp_path, warn=[].append)


def test_changed_number_in_the_state_is_found(tmp_path):
    path = save(tmp_path, 1) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "updates": 99}))
    with pytest.raises(StateError, match=r"state\.json: damaged: its checksum is not that of its content"):
        load_checkpoint(path.parent)


def test_other_version_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, step=1, tensors={}, state={"version": 99})
    with pytest.raises(StateError, match="checkpoint version 99, this program reads 4 and 5; finish the run"):
        load_checkpoint(path)


def test_unwritable_folder_is_the_machines_fault(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(EnvironmentFault, match=r"step-00000001: cannot write"):
        save(tmp_path / "checkpoints", 1)


def test_a_full_disk_gets_its_space_back(monkeypatch, tmp_path):
    save(tmp_path, 1)

    def run_out(path, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_state", run_out)
    with pytest.raises(EnvironmentFault, match=r"step-00000002: cannot write: No space left on device; free some"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def trained_pair(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        train_once(model, optimizer)
    return model, optimizer


def train_once(model, optimizer):
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_restored_model_and_optimizer_go_on_alike(tmp_path):
    model, optimizer = trained_pair(0)
    tensors = {"model": model_weights(model), "optimizer": capture_optimizer(optimizer, model)}
    path = save_checkpoint(tmp_path, step=3, tensors=tensors, state={})
    other, other_optimizer = trained_pair(1)
    loaded = load_checkpoint(path).tensors
    load_weights(other, loaded["model"])
    restore_optimizer(other_optimizer, other, loaded["optimizer"])
    for _ in range(2):
        train_once(model, optimizer)
        train_once(other, other_optimizer)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(4, 3, bias=False), "bias is only in the checkpoint"),
        (nn.Linear(5, 3), r"weight has shape \(3, 4\) there and \(3, 5\) here"),
    ],
)
def test_checkpoint_of_another_model_is_refused(other, message):
    model = nn.Linear(4, 3)
    with pytest.raises(StateError, match=f"of another model: {message}"):
        load_weights(other, model_weights(model))


def test_optimizer_of_another_model_is_refused():
    optimizer = trained_pair(0)[1]
    with pytest.raises(StateError, match=r"optimizer has exp_avg/0.weight, which this model lacks"):
        restore_optimizer(optimizer, nn.Linear(4, 3), {"exp_avg/0.weight": torch.zeros(3, 4)})


def test_generators_go_on_where_they_were():
    tensors, numbers = capture_random()
    numbers = json.loads(json.dumps(numbers))
    first = (random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
    restore_random(tensors, numbers)
    assert (random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()) == first


def save_in_parts(ranks, folder, *, max_bytes=None):
    """Save a checkpoint of sharded tensors; with ``max_bytes``, rank 1 cannot write larger files."""
    import resource

    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (ranks.world,))
    whole = {"matrix": torch.arange(20_000.0).view(5, 4000), "row": torch.arange(4000.0).view(1, 4000)}
    tensors = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in whole.items()}
    if max_bytes and ranks.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    groups = {"model": {**tensors, "number": torch.tensor(3.0)}, "random": {"torch": torch.arange(4)}}
    return str(save_checkpoint(folder, step=4, tensors=copy_own_tensors(groups, ranks), state={}, ranks=ranks))


@pytest.mark.slow
def test_ranks_write_their_rows_at_once_and_one_reads_the_whole(tmp_path):
    # Rows of 5 for 3 ranks: two, two and one; of a single one, the last two ranks have none.
    assert on_ranks(3, save_in_parts, tmp_path) == [str(tmp_path / "step-00000004")] * 3
    found = load_latest(tmp_path, warn=refuse_warning)
    parts = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    assert set(found.state["files"]) == {*parts, "random-1-of-3.safetensors"}
    model = found.tensors["model"]
    assert set(model) == {"matrix", "row", "number"}
    assert len(model) == 3
    assert torch.equal(model["matrix"], torch.arange(20_000.0).view(5, 4000))
    assert torch.equal(model["row"], torch.arange(4000.0).view(1, 4000))
    assert model["number"] == 3.0
    assert torch.equal(found.tensors["random"]["torch"], torch.arange(4))
    assert torch.equal(read_tensors(found.folder, "model")["matrix"], model["matrix"])
    with pytest.raises(KeyError, match="bias"):
        model["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "remove"])
def test_a_damaged_part_of_one_rank_damages_the_checkpoint(tmp_path, fault):
    on_ranks(2, save_in_parts, tmp_path)
    victim = tmp_path / "step-00000004" / "model-2-of-2.safetensors"
    if fault == "remove":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(StateError, match=r"model-2-of-2\.safetensors: damaged"):
        load_checkpoint(victim.parent)
    with pytest.raises(StateError, match=r"model-2-of-2\.safetensors: damaged or missing"):
        read_tensors(victim.parent, "model")


@pytest.mark.slow
def test_a_rank_that_cannot_write_fails_all_and_leaves_nothing(tmp_path):
    messages = on_ranks(2, partial(save_in_parts, max_bytes=1000), tmp_path)
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{tmp_path / 'step-00000004'}: cannot write: ")
    assert list(tmp_path.iterdir()) == []


def save_apart(ranks, folder):
    return save_in_parts(ranks, folder / str(ranks.rank))


def test_ranks_without_a_common_filesystem_are_told_so(tmp_path):
    messages = on_ranks(2, save_apart, tmp_path)
    assert messages[0] == messages[1]
    assert f"{tmp_path / '1'}: rank 1 does not see the folder that rank 0 has made in it; put RUN on a" in messages[0]
