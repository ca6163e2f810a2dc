"""Batches: zeros behind every row, rows sorted, whatever stages did to lengths; buffers used again only when free."""

import gc
import os
import pickle
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_shard.audio.samples import copy_waveform
from whisper_shard.errors import EnvironmentFault
from whisper_shard.stream import buffers as buffers_module
from whisper_shard.stream.batch import BatchBuilder, Fault
from whisper_shard.stream.buffers import LocalBuffers, Receiver, SharedBuffers
from whisper_shard.utterance import Phrase


def record_of(row, waveform, *, planned=None, gap=0, width=10, key="k", text="word", fault=None):
    return {
        "row": row, "gap": gap, "width": width, "num_samples": len(waveform) if planned is None else planned,
        "waveform": waveform, "__key__": key, "text": text, "language": None, "task": None, "prompt": None,
        "phrases": (),
        "weight": 0.0 if fault else 1.0, "fault": fault, "id": 7,
    }  # fmt: skip


def test_phrases_have_times_of_their_own_which_follow_a_change_of_speed():
    phrases = (Phrase(start=0.0, end=0.5, text="one"), Phrase(start=1.0, end=2.0, text="two three"))
    whole = record_of(0, ramp(16_000, np.float32), width=40_000, key="a", text="zero")
    faster = record_of(
        0, ramp(16_000, np.float32), planned=32_000, gap=8_000, width=40_000, key="b", text="one two three"
    )
    batch = build([whole, faster | {"phrases": phrases}], rows=1)
    found = [(s.key, s.text, s.start_seconds, s.end_seconds) for s in batch.segments[0]]
    assert found == [("a", "zero", 0.0, 1.0), ("b", "one", 1.5, 1.75), ("b", "two three", 2.0, 2.5)]
    assert batch.texts == ("zero one two three",)


def test_what_has_no_text_is_no_segment_and_leaves_no_space_in_the_text():
    parts = [("a", "one"), ("noise", ""), ("b", "two")]
    records = [record_of(0, ramp(16_000, np.float32), width=48_000, key=key, text=text) for key, text in parts]
    batch = build([*records, record_of(1, ramp(8_000, np.float32), width=48_000, text="")], rows=2)
    assert batch.texts == ("", "one two")
    assert [[(s.key, s.start_seconds) for s in row] for row in batch.segments] == [[], [("a", 0.0), ("b", 2.0)]]
    assert batch.weights.tolist() == [1, 1]


def dirty_buffer(rows, samples, dtype):
    return np.full((rows, samples), 99, dtype)


def build(records, *, rows, dtype="float32", new_buffer=dirty_buffer):
    builder = BatchBuilder(rows=rows, epoch=1, step=2, dtype=dtype, new_buffer=new_buffer)
    for record in records:
        builder.add(record)
    return builder.finish()


def ramp(n, dtype=np.int16):
    return (np.arange(1, n + 1) * 100).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_rows_as_planned(dtype):
    batch = build([record_of(1, ramp(4)), record_of(2, ramp(10))], rows=3, dtype=dtype)
    scale = 1 / 32768 if dtype == "float32" else 1
    expected = np.zeros((3, 10))
    expected[1, :4], expected[2] = ramp(4) * scale, ramp(10) * scale
    assert batch.waveforms.dtype == getattr(torch, dtype)
    assert np.array_equal(batch.waveforms.numpy(), expected.astype(dtype))
    assert batch.num_samples.tolist() == [0, 4, 10]
    assert batch.weights.tolist() == [0, 1, 1]
    assert (batch.epoch, batch.step, batch.keys, batch.ids) == (1, 2, ("", "k", "k"), (7, 7))


def test_rows_are_laid_out_again_when_lengths_changed():
    longer = np.full(12, 0.5, np.float32)
    batch = build(
        [record_of(0, ramp(3), key="a"), record_of(1, longer, planned=6), record_of(2, ramp(8), key="c")], rows=3
    )
    assert batch.num_samples.tolist() == [3, 8, 12]
    assert batch.keys == ("a", "c", "k")
    assert batch.waveforms[1, :8].tolist() == (ramp(8) / 32768).astype(np.float32).tolist()
    assert batch.waveforms[2].tolist() == [0.5] * 12
    assert not batch.waveforms[0, 3:].any() and not batch.waveforms[1, 8:].any()


def test_a_dropped_longest_row_makes_the_batch_narrower():
    batch = build([record_of(0, ramp(3))], rows=2)
    assert tuple(batch.waveforms.shape) == (2, 3)
    assert batch.weights.tolist() == [0, 1]


def test_a_batch_without_any_record():
    batch = build([], rows=2)
    assert batch.waveforms.tolist() == [[0.0], [0.0]]
    assert batch.weights.tolist() == [0, 0]


def test_packed_rows_have_segments_with_times():
    second = record_of(0, ramp(16000), gap=8000, width=40000, key="b", text="two")
    batch = build([record_of(0, ramp(16000), width=40000, key="a", text="one"), second], rows=1)
    assert batch.texts == ("one two",)
    assert [(s.key, s.start_seconds, s.end_seconds) for s in batch.segments[0]] == [("a", 0.0, 1.0), ("b", 1.5, 2.5)]
    assert not batch.waveforms[0, 16000:24000].any()


def test_a_batch_in_plain_types():
    fault = Fault(id=3, key="b", message="damaged")
    bad = record_of(0, ramp(0), planned=5, key="b", text="", fault=fault)
    batch = build([record_of(0, ramp(16000), width=16005, key="a", text="one"), bad], rows=1)
    plain = batch.as_dict()
    assert plain.keys() == {field.name for field in fields(batch)}
    assert plain["waveforms"] is batch.waveforms
    assert plain["segments"] == [[{"key": "a", "text": "one", "start_seconds": 0.0, "end_seconds": 1.0}]]
    assert plain["faults"] == [{"id": 3, "key": "b", "message": "damaged"}]
    assert (plain["texts"], plain["languages"], plain["ids"], plain["step"]) == (["one"], [None], [7], 2)


def test_a_segment_ends_before_the_silence_that_was_appended():
    record = record_of(0, ramp(24000), width=24000) | {"silent_samples": 8000}
    (segment,) = build([record], rows=1).segments[0]
    assert (segment.start_seconds, segment.end_seconds) == (0.0, 1.0)


def test_a_damaged_member_of_a_window_costs_only_itself():
    fault = Fault(id=3, key="b", message="damaged")
    bad = record_of(0, ramp(0), planned=5, key="b", text="", fault=fault)
    batch = build([record_of(0, ramp(4), key="a", text="one"), bad], rows=1)
    assert batch.weights.tolist() == [1] and batch.texts == ("one",)
    assert batch.ids == (7,) and batch.faults == (fault,)
    assert batch.num_samples.tolist() == [4]


def test_float_samples_are_rounded_to_int16():
    out = np.empty(3, np.int16)
    copy_waveform(np.array([1.0, -1.0, 0.25], np.float32), out)
    assert out.tolist() == [32767, -32768, 8192]


def test_local_buffers_come_back_only_when_no_view_is_left():
    buffers = LocalBuffers()
    tensor = torch.from_numpy(buffers.take(4, 1000, "float32"))
    address = tensor.data_ptr()
    view = tensor[2:]
    del tensor
    assert torch.from_numpy(buffers.take(4, 1000, "float32")).data_ptr() != address
    del view
    gc.collect()
    addresses = {torch.from_numpy(buffers.take(4, 900, "float32")).data_ptr() for _ in range(2)}
    assert address in addresses


def send_batch(shared, receiver, value, *, samples=1000):
    builder = BatchBuilder(rows=1, epoch=0, step=0, dtype="float32", new_buffer=shared.take)
    builder.add(record_of(0, np.full(samples, value, np.float32), width=samples))
    parcel = ForkingPickler.dumps(shared.send(builder.finish()))
    return receiver.receive(pickle.loads(parcel))


def test_shared_buffers_are_not_overwritten_while_a_view_is_left():
    shared, receiver = SharedBuffers(0), Receiver()
    view = send_batch(shared, receiver, 1.0).waveforms[:, 500:]
    others = [send_batch(shared, receiver, float(i)) for i in range(2, 6)]
    assert view.unique().tolist() == [1.0]
    assert [batch.waveforms.unique().tolist() for batch in others] == [[2.0], [3.0], [4.0], [5.0]]
    assert len(shared._buffers) == 5
    del view, others
    gc.collect()
    for i in range(20):
        assert send_batch(shared, receiver, float(i)).waveforms.unique().tolist() == [float(i)]
    assert len(shared._buffers) == 5


@pytest.mark.slow
def test_a_shared_buffer_that_is_too_small_is_replaced(monkeypatch):
    monkeypatch.setattr(buffers_module, "_LEAST_SHARED_BYTES", 1)
    shared, receiver = SharedBuffers(0), Receiver()
    for samples in (10, 100_000, 20, 3_000_000):
        assert send_batch(shared, receiver, 0.5, samples=samples).waveforms.shape == (1, samples)
        gc.collect()
    assert len(shared._buffers) == 1


def test_a_shared_buffer_takes_up_memory_only_where_it_is_written():
    shared, receiver = SharedBuffers(0), Receiver()
    before = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[2])
    batch = send_batch(shared, receiver, 1.0, samples=100_000)
    after = os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[2])
    assert batch.waveforms.nbytes == 400_000 and 400_000 <= after - before < 4_000_000
    assert len(shared._buffers[0]) >= 2**28


def test_too_many_batches_under_way(monkeypatch):
    monkeypatch.setattr(buffers_module, "_SLOTS", 2)
    shared, receiver = SharedBuffers(0), Receiver()
    held = [send_batch(shared, receiver, 1.0) for _ in range(2)]
    with pytest.raises(EnvironmentFault, match=r"2 batches of one loader process are held at once"):
        send_batch(shared, receiver, 1.0)
    assert len(held) == 2
