"""A folder of a bucket is held by one process at a time."""

import json
import os
import time
from contextlib import suppress

import pytest

from tests.s3 import BUCKET
from whisper_shard.errors import EnvironmentFault, StateError
from whisper_shard.storage import lease as lease_module
from whisper_shard.storage.lease import LEASE_SECONDS, hold_lease
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore


@pytest.fixture
def folder(s3, request):
    return parse_location(f"s3://{BUCKET}/leases/{request.node.name}")


def hold(folder):
    return hold_lease(folder.join("lease.json"), ObjectStore(), folder=folder, name="run", doing="training")


def leases_in(folder):
    return [info.location.name for info in ObjectStore().list(folder)]


def write_lease(folder, **fields):
    content = {"host": "elsewhere", "pid": 1, "time": time.time(), **fields}
    ObjectStore().put(folder.join("lease.json"), json.dumps(content).encode())


def test_lease_is_removed_at_the_end(folder):
    with hold(folder):
        assert leases_in(folder) == ["lease.json"]
    assert leases_in(folder) == []


def test_second_process_is_refused(folder):
    write_lease(folder)
    with (
        pytest.raises(StateError, match=rf"{folder}: process 1 of elsewhere is training into it right now; wait until"),
        hold(folder),
    ):
        pass
    assert leases_in(folder) == ["lease.json"]


@pytest.mark.parametrize(
    "fields", [{"time": time.time() - LEASE_SECONDS - 1}, {"host": os.uname().nodename, "pid": 0}, {"time": "never"}]
)
def test_lease_of_a_process_that_is_gone_is_taken_over(folder, fields):
    write_lease(folder, **fields)
    with hold(folder):
        assert json.loads(ObjectStore().get(folder.join("lease.json"), max_bytes=1000))["pid"] == os.getpid()
    assert leases_in(folder) == []


def test_lease_is_renewed_and_its_loss_is_noticed(folder, monkeypatch):
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.6)
    with hold(folder) as lease:
        first = ObjectStore().get(lease.place, max_bytes=1000)
        time.sleep(0.8)
        assert ObjectStore().get(lease.place, max_bytes=1000) != first
        lease.check()
        deadline = time.monotonic() + 10
        while not lease._is_lost and time.monotonic() < deadline:
            with suppress(EnvironmentFault):  # a renewal came in between, as it may
                write_lease(folder)
            time.sleep(0.3)
        with pytest.raises(StateError, match=rf"{folder}: another process took over, since this one could not renew"):
            lease.check()
    assert leases_in(folder) == ["lease.json"], "the lease of another process was removed"
