import errno
import json
import os
from importlib.metadata import version

import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.files import stat_source
from whisper_shard.prepare.output import OutputFolder
from whisper_shard.prepare.plan import SplitPlan
from whisper_shard.prepare.receipts import (
    RowOutcome,
    count_receipt,
    find_staleness,
    make_receipt,
    read_receipt,
    write_receipt,
)


def make_shard(folder):
    output = OutputFolder(path=folder / "out")
    split = SplitPlan(name="train", output=output, fingerprint="plan", corpus=folder, num_rows=1, shard_rows=1)
    (shard,) = split.shards()
    shard.receipt.parent.mkdir(parents=True, exist_ok=True)
    return shard


NOTHING_KEPT = {"num_samples": []}


def make_rejected(folder, *, reason):
    """Write the receipt of a shard whose only row, ``a.wav``, was rejected; return it as read again."""
    num_bytes, mtime_ns = stat_source(folder / "a.wav")
    outcome = RowOutcome(
        row=7,
        source="a.wav",
        num_bytes=num_bytes,
        mtime_ns=mtime_ns,
        seconds=0.5,
        reason=reason,
        detail="why",
        num_utterances=0,
    )
    shard = make_shard(folder)
    info = ShardInfo(name="shards/000000.tar", num_bytes=0, sha256="", num_utterances=0)
    write_receipt(shard, make_receipt(shard, info, config=PrepareConfig(), outcomes=[outcome], index=NOTHING_KEPT))
    return read_receipt(shard.receipt)


def staleness(folder, receipt, **settings):
    return find_staleness(receipt, make_shard(folder), PrepareConfig(**settings), tar_bytes=0)


def test_row_that_was_denied_heals_when_it_can_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_rejected(tmp_path, reason="permission_denied")
    assert staleness(tmp_path, receipt) == "row 7 ('a.wav') can be read now"
    assert staleness(tmp_path, make_rejected(tmp_path, reason="silent")) is None


def test_row_is_examined_at_the_file_with_its_audio(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"recordings")
    num_bytes, mtime_ns = stat_source(tmp_path / "data.parquet")
    known = {"row": 7, "source": "a.wav", "file": "data.parquet", "seconds": 0.5, "reason": "silent", "detail": "why"}
    outcome = RowOutcome(num_bytes=num_bytes, mtime_ns=mtime_ns, num_utterances=0, **known)
    shard = make_shard(tmp_path)
    info = ShardInfo(name="shards/000000.tar", num_bytes=0, sha256="", num_utterances=0)
    write_receipt(shard, make_receipt(shard, info, config=PrepareConfig(), outcomes=[outcome], index=NOTHING_KEPT))
    receipt = read_receipt(shard.receipt)
    assert staleness(tmp_path, receipt) is None
    assert count_receipt(receipt, tmp_path).examples == {"silent": f"row 7, {tmp_path}/data.parquet: why"}
    (tmp_path / "data.parquet").write_bytes(b"other recordings")
    assert staleness(tmp_path, receipt) == "row 7 ('a.wav') has changed: 10 bytes then, 16 now"


def test_row_that_is_still_denied_stays_rejected(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    (tmp_path / "a.wav").chmod(0)
    if os.access(tmp_path / "a.wav", os.R_OK):  # root may read everything
        monkeypatch.setattr(os, "access", deny)
    assert staleness(tmp_path, make_rejected(tmp_path, reason="permission_denied")) is None


def deny(_path, _mode):
    return False


def lose_mount(path, *_arguments):
    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))


def test_lost_mount_does_not_make_receipts_stale(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_rejected(tmp_path, reason="silent")
    monkeypatch.setattr("whisper_shard.prepare.receipts.os.stat", lose_mount)
    with pytest.raises(EnvironmentFault, match=r"a.wav: cannot be examined: Transport endpoint is not connected; fix"):
        stat_source(tmp_path / "a.wav")
    monkeypatch.undo()
    assert staleness(tmp_path, receipt) is None
    assert stat_source(tmp_path / "none.wav") == (-1, 0)


def test_other_libraries_make_a_receipt_stale_by_name(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_rejected(tmp_path, reason="silent")
    assert set(receipt.versions) == {"libsndfile", "av", "soundfile", "soxr", "numpy"}
    assert staleness(tmp_path, receipt) is None
    path = make_shard(tmp_path).receipt
    content = json.loads(path.read_bytes())
    content["versions"]["soxr"] = "0.0.1"
    path.write_text(json.dumps(content))
    found = staleness(tmp_path, read_receipt(path))
    assert found == f"it was made with other libraries (soxr was 0.0.1, is {version('soxr')})"


def test_limits_count_only_where_a_row_was_rejected_for_one(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    assert staleness(tmp_path, make_rejected(tmp_path, reason="silent"), worker_memory_mb=2000) is None
    found = staleness(tmp_path, make_rejected(tmp_path, reason="decoder_out_of_memory"), worker_memory_mb=2000)
    assert "it has rejects made under other limits" in found
    assert "worker_memory_mb was 4096, is 2000" in found


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"plan": "plan"}', b'{"info": 3}'])
def test_damaged_receipt_does_not_count(tmp_path, damage):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    make_rejected(tmp_path, reason="silent")
    make_shard(tmp_path).receipt.write_bytes(damage)
    assert read_receipt(make_shard(tmp_path).receipt) is None


def test_receipt_is_counted(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    counts = count_receipt(make_rejected(tmp_path, reason="silent"), tmp_path)
    assert (counts.num_rows, counts.num_utterances, counts.rejects) == (1, 0, {"silent": 1})
    assert (counts.seconds_in, counts.seconds_kept) == (0.5, 0)
    assert counts.examples == {"silent": f"row 7, {tmp_path}/a.wav: why"}
