import os
import time

from whisper_shard.prepare.workers.heartbeat import (
    IDLE,
    Heartbeat,
    clear_heartbeats,
    find_decoding,
    find_stalled,
    read_heartbeats,
)


def test_status_follows_the_rows_of_a_task(tmp_path):
    clear_heartbeats(tmp_path / "workers")
    heartbeat = Heartbeat(tmp_path / "workers")
    heartbeat.begin_task(7)
    heartbeat.begin_row(3)
    heartbeat.end_row(seconds_in=2.0, seconds_kept=1.5, is_rejected=False)
    heartbeat.begin_row(4)
    heartbeat.end_row(seconds_in=1.0, seconds_kept=0.0, is_rejected=True)
    heartbeat.begin_row(5)
    before = time.monotonic()
    (status,) = read_heartbeats(tmp_path / "workers")
    assert (status.pid, status.task, status.row, status.num_rows) == (os.getpid(), 7, 5, 2)
    assert (status.seconds_in, status.seconds_kept, status.num_rejects) == (3.0, 1.5, 1)
    assert before - 1 < status.since <= before
    assert find_decoding([status]) == [status]
    assert find_stalled([status], 60) == []
    assert find_stalled([status], -1) == [status]
    heartbeat.begin_task(8)
    (status,) = read_heartbeats(tmp_path / "workers")
    assert (status.task, status.row, status.num_rows, status.seconds_in) == (8, IDLE, 0, 0.0)
    assert find_stalled([status], -1) == []


def test_what_is_not_a_whole_heartbeat_is_ignored(tmp_path):
    (tmp_path / "12").write_bytes(bytes(64))  # created, but not yet written to
    (tmp_path / "13").write_bytes(b"")
    (tmp_path / "other").write_bytes(bytes(64))
    assert read_heartbeats(tmp_path) == []
    clear_heartbeats(tmp_path)
    assert list(tmp_path.iterdir()) == []
