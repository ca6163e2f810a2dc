import errno
import json
import os
from importlib.metadata import version

import pytest

from whisper_shard.dataset.description import ShardInfo
from whisper_shard.errors import EnvironmentFault
from whisper_shard.prepare.receipts import RowOutcome, find_staleness, read_receipt, stat_source, write_receipt
from whisper_shard.storage.atomic import ignore_step


def make_receipt(folder, *, reason):
    """Write the receipt of a shard whose only row, ``a.wav``, was rejected; return it as read again."""
    num_bytes, mtime_ns = stat_source(folder / "a.wav")
    outcome = RowOutcome(
        row=7, source="a.wav", num_bytes=num_bytes, mtime_ns=mtime_ns, seconds=0.0, reason=reason, detail=""
    )
    write_receipt(
        folder / "000000.json",
        plan="plan",
        info=ShardInfo(name="shards/000000.tar", num_bytes=0, sha256="", num_utterances=0),
        limits={},
        outcomes=[outcome],
        index_rows=[],
        on_step=ignore_step,
    )
    return read_receipt(folder / "000000.json")


def staleness(folder, receipt):
    return find_staleness(receipt, plan="plan", limits={}, split=folder, corpus=folder)


def test_row_that_was_denied_heals_when_it_can_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_receipt(tmp_path, reason="permission_denied")
    assert staleness(tmp_path, receipt) == "row 7 ('a.wav') can be read now"
    assert staleness(tmp_path, make_receipt(tmp_path, reason="silent")) is None


def test_row_that_is_still_denied_stays_rejected(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    (tmp_path / "a.wav").chmod(0)
    if os.access(tmp_path / "a.wav", os.R_OK):  # root may read everything
        monkeypatch.setattr(os, "access", deny)
    assert staleness(tmp_path, make_receipt(tmp_path, reason="permission_denied")) is None


def deny(_path, _mode):
    return False


def lose_mount(path, *_arguments):
    raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))


def test_lost_mount_does_not_make_receipts_stale(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_receipt(tmp_path, reason="silent")
    monkeypatch.setattr("whisper_shard.prepare.receipts.os.stat", lose_mount)
    with pytest.raises(EnvironmentFault, match=r"a.wav: cannot be examined: Transport endpoint is not connected; fix"):
        stat_source(tmp_path / "a.wav")
    monkeypatch.undo()
    assert staleness(tmp_path, receipt) is None
    assert stat_source(tmp_path / "none.wav") == (-1, 0)


def test_other_libraries_make_a_receipt_stale_by_name(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a recording")
    receipt = make_receipt(tmp_path, reason="silent")
    assert set(receipt.versions) == {"libsndfile", "av", "librosa", "soundfile", "soxr", "numpy"}
    assert staleness(tmp_path, receipt) is None
    content = json.loads((tmp_path / "000000.json").read_bytes())
    content["versions"]["soxr"] = "0.0.1"
    (tmp_path / "000000.json").write_text(json.dumps(content))
    found = staleness(tmp_path, read_receipt(tmp_path / "000000.json"))
    assert found == f"it was made with other libraries (soxr was 0.0.1, is {version('soxr')})"
