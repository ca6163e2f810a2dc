"""The loader as a whole: any number of ranks and workers, stopped anywhere, gives the same bytes."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds

from tests.making import make_dataset
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.index import open_dataset
from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault, StateError
from whisper_shard.stream.delivery import Ledger
from whisper_shard.stream.loader import open_evaluation, open_loader
from whisper_shard.stream.resume import plan_state_from_json

NOISY = ({"kind": "noise", "p": 0.5}, {"kind": "speed", "p": 0.3})
CONFIG = StreamConfig(batch_size=12, workers=0, augment=NOISY)
# Apart, as each loader process takes a second to import audiomentations.
NOISIER = dataclasses.replace(CONFIG, augment=({"kind": "AddGaussianNoise", "p": 0.5}, *NOISY))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    seconds = np.random.default_rng(0).uniform(0.05, 0.6, 40).tolist()
    return make_dataset(tmp_path_factory.mktemp("data") / "set", seconds, per_shard=7, speakers=3)


def digest(batch):
    """Everything a training step sees."""
    parts = [batch.waveforms.numpy().tobytes(), batch.num_samples.numpy().tobytes(), batch.weights.numpy().tobytes()]
    names = repr((batch.keys, batch.texts, batch.languages, batch.tasks, batch.segments, batch.ids))
    return batch.epoch, batch.step, hashlib.sha256(b"".join(parts) + names.encode()).hexdigest()


def digests(loader):
    return [digest(batch) for batch in loader]


def account(batches, epoch):
    ledger = Ledger()
    for batch in batches:
        if batch.epoch == epoch:
            ledger.add(batch)
    return ledger


def utterances(batches):
    """What arrives for each key: the samples, noise and all."""
    return sorted(
        (batch.epoch, batch.step, key, row[:n].numpy().tobytes())
        for batch in batches
        for key, row, n in zip(batch.keys, batch.waveforms, batch.num_samples.tolist(), strict=True)
        if key
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("workers", "packed"), [(1, ""), (2, ""), (3, ""), pytest.param(4, "", marks=pytest.mark.long), (2, "speaker")]
)
def test_workers_change_nothing(dataset, workers, packed):
    base = NOISIER if workers == 1 else CONFIG
    config = dataclasses.replace(base, pack_by=packed, batch_size=4 if packed else 12)
    expected = digests(open_loader(dataset, config, epochs=2))
    assert digests(open_loader(dataset, dataclasses.replace(config, workers=workers), epochs=2)) == expected


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])  # 5, 7 and 8: in test_plan.py
@pytest.mark.parametrize("seed", [0, 1])
def test_ranks_share_the_same_batches_and_the_same_noise(dataset, world, seed):
    config = dataclasses.replace(NOISIER, seed=seed)
    whole = list(open_loader(dataset, config, epochs=2))
    loaders = [open_loader(dataset, config, epochs=2, rank=rank, world=world) for rank in range(world)]
    parts = [list(loader) for loader in loaders]
    assert {len(part) for part in parts} == {len(whole)} == {8}
    assert {len(batch.keys) for part in parts for batch in part} == {12 // world}
    assert utterances(batch for part in parts for batch in part) == utterances(whole)
    for epoch in range(2):
        ledger = account((batch for part in parts for batch in part), epoch)
        assert ledger.is_complete(loaders[0].planned(epoch)) and ledger.delivered == 40


@pytest.mark.parametrize("batch_seconds", [0.0, 2.5])
def test_resume_anywhere_gives_the_identical_rest(dataset, batch_seconds):
    config = dataclasses.replace(NOISIER, batch_seconds=batch_seconds)
    loader = open_loader(dataset, config, epochs=2)
    whole = list(loader)
    expected = [digest(batch) for batch in whole]
    steps = loader.steps_per_epoch
    assert len(whole) == len(loader) == 2 * steps
    for number, batch in enumerate(whole):
        state = plan_state_from_json(json.loads(json.dumps(loader.state_after(batch).to_json())))
        assert (state.epoch, state.step) == divmod(number + 1, steps)
        rest = open_loader(dataset, config, epochs=2, state=state)
        assert len(rest) == len(whole) - number - 1
        after = list(rest)
        assert [digest(batch) for batch in after] == expected[number + 1 :]
        for epoch in range(state.epoch, 2):
            planned = rest.planned(epoch, first_step=state.step if epoch == state.epoch else 0)
            assert account(after, epoch).is_complete(planned)


def test_resume_of_a_resume_with_other_ranks_and_workers(dataset):
    whole = list(open_loader(dataset, CONFIG, epochs=2))
    seen = list(whole[:3])
    state = open_loader(dataset, CONFIG).state_after(whole[2])
    plan = [(2, 2, 2), (3, 0, 2), (1, 1, 1)]  # ranks, workers, steps
    for world, workers, steps in plan:
        config = dataclasses.replace(CONFIG, workers=workers)
        loaders = [open_loader(dataset, config, epochs=2, state=state, rank=r, world=world) for r in range(world)]
        for loader in loaders:
            taken = [batch for batch, _ in zip(loader, range(steps), strict=False)]
            seen += taken
            loader.close()
        state = loader.state_after(taken[-1])
    assert (state.epoch, state.step) == (2, 0)
    assert utterances(seen) == utterances(whole)


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_tiny_datasets(tmp_path, size, workers):
    tiny = make_dataset(tmp_path / "tiny", [0.1] * size)
    loader = open_loader(tiny, dataclasses.replace(CONFIG, workers=workers), epochs=2)
    batches = list(loader)
    assert len(batches) == (2 if size else 0)
    assert [sum(batch.weights.tolist()) for batch in batches] == [size] * len(batches)
    assert {len(batch.keys) for batch in batches} <= {12}
    assert account(batches, 1).is_complete(loader.planned(1))
    assert len(list(open_evaluation(tiny, batch_size=2))) == -(-size // 2)


def test_without_end(dataset):
    loader = open_loader(dataset, CONFIG)
    epochs = [batch.epoch for batch, _ in zip(loader, range(9), strict=False)]
    assert epochs == [0] * 4 + [1] * 4 + [2]
    with pytest.raises(TypeError, match=r"this loader is endless"):
        len(loader)


def test_noise_differs_between_epochs_and_is_off_when_asked(dataset):
    config = dataclasses.replace(CONFIG, augment=({"kind": "noise", "p": 1.0},))
    by_epoch = [{u[2]: u[3] for u in utterances(open_loader(dataset, config, epochs=2)) if u[0] == e} for e in (0, 1)]
    assert by_epoch[0].keys() == by_epoch[1].keys()
    assert all(by_epoch[0][key] != by_epoch[1][key] for key in by_epoch[0])
    clean = [
        {u[2]: u[3] for u in utterances(open_loader(dataset, config, epochs=2, augment=False)) if u[0] == e}
        for e in (0, 1)
    ]
    assert clean[0] == clean[1]


def test_clean_batches_hold_the_stored_samples(dataset):
    plain = {
        record["__key__"]: record
        for record in wds.WebDataset(
            [str(dataset.shard_path(i)) for i in range(len(dataset.shards))], shardshuffle=False
        ).decode()
    }
    for kind, scale in (("float32", 1 / 32768), ("int16", 1)):
        config = dataclasses.replace(CONFIG, sample_format=kind)
        for batch in open_loader(dataset, config, epochs=1, augment=False):
            for key, text, row, n in zip(
                batch.keys, batch.texts, batch.waveforms.numpy(), batch.num_samples, strict=True
            ):
                if key:
                    assert np.array_equal(row[: int(n)], (plain[key]["npy"] * scale).astype(kind))
                    assert text == plain[key]["json"]["text"]
                assert not row[int(n) :].any()


def test_packed_windows(dataset):
    config = dataclasses.replace(CONFIG, batch_size=2, pack_by="speaker", augment=())
    batches = list(open_loader(dataset, config, epochs=1))
    rows = [row for batch in batches for row in batch.segments if row]
    assert sum(map(len, rows)) == 40 and max(map(len, rows)) > 5
    speakers = {f"utt{i:05d}": i % 3 for i in range(40)}
    assert all(len({speakers[segment.key] for segment in row}) == 1 for row in rows)
    for batch in batches:
        for text, row in zip(batch.texts, batch.segments, strict=True):
            assert text == " ".join(segment.text for segment in row)
            assert all(a.end_seconds + 0.0999 <= b.start_seconds for a, b in itertools.pairwise(row))


def test_a_share_of_the_utterances_is_packed_once_an_epoch_all_the_same(dataset):
    config = dataclasses.replace(CONFIG, batch_size=2, pack_by="speaker", pack_share=0.5, augment=())
    loader = open_loader(dataset, config, epochs=1)
    batches = list(loader)
    rows = [row for batch in batches for row in batch.segments if row]
    assert sum(map(len, rows)) == 40 and account(batches, 0).is_complete(loader.planned(0))
    assert 10 < sum(len(row) == 1 for row in rows) < 30 and max(map(len, rows)) > 3
    with pytest.raises(StateError, match=r"pack_share was 1.0, now it is 0.5"):
        open_loader(dataset, config, state=dataclasses.replace(loader.start, pack_share=1.0))


def test_mixed_datasets(dataset, tmp_path):
    other = make_dataset(tmp_path / "other", [0.1] * 10, seed=5)
    config = dataclasses.replace(CONFIG, weights=(1.0, 3.0), augment=({"kind": "noise", "p": 1.0},))
    loader = open_loader([dataset, other], config, epochs=1)
    batches = list(loader)
    ids = [i for batch in batches for i in batch.ids]
    assert len(ids) == 70 and all(ids.count(i) == (1 if i < 40 else 3) for i in range(50))
    assert account(batches, 0).is_complete(loader.planned(0))
    repeated = [(u[1], u[3]) for u in utterances(batches) if u[2] == "utt00000"]
    assert len(repeated) == 4
    assert len({sound for _, sound in repeated}) >= len({step for step, _ in repeated}) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stage_of_ones_own(dataset, workers):
    config = dataclasses.replace(CONFIG, workers=workers)
    stages = [wds.map(shout), wds.select(is_even)]
    loader = open_loader(dataset, config, epochs=1, stages=stages)
    batches = list(loader)
    texts = [text for batch in batches for text in batch.texts if text]
    assert len(texts) == 20 and all(text.isupper() for text in texts)
    assert len(batches) == 4 and sum(batch.weights.sum().item() for batch in batches) == 20
    ledger, planned = account(batches, 0), loader.planned(0)
    assert (planned.utterances, ledger.delivered, ledger.is_complete(planned)) == (40, 20, False)


def shout(record):
    return record | {"text": record["text"].upper()}


def is_even(record):
    return record["id"] % 2 == 0


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("limit", [0, 10])
def test_evaluation(dataset, world, limit):
    parts = [list(open_evaluation(dataset, batch_size=4, rank=r, world=world, limit=limit)) for r in range(world)]
    assert len({len(part) for part in parts}) == 1
    keys = [key for part in parts for batch in part for key in batch.keys if key]
    assert len(keys) == len(set(keys)) == (limit or 40)
    for part in parts:
        assert {next(iter(batch.waveforms.shape)) for batch in part} == {4}
        lengths = [int(n) for batch in part for n in batch.num_samples if n]
        assert lengths == sorted(lengths)
    assert digests(open_evaluation(dataset, batch_size=4, workers=2)) == digests(open_evaluation(dataset, batch_size=4))


def damaged(dataset, folder, *rows):
    shutil.copytree(dataset.folder, folder / "damaged")
    offsets = dataset.columns("shard", "audio_offset")
    for row in rows:
        with (folder / "damaged" / dataset.shards[offsets["shard"][row]].name).open("r+b") as file:
            file.seek(int(offsets["audio_offset"][row]) + 200)
            file.write(b"\x55\xaa")
    return open_dataset(folder / "damaged")


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_stops_the_run_in_its_place(dataset, tmp_path, workers):
    broken = damaged(dataset, tmp_path, 17)
    good = []
    with pytest.raises(
        DatasetError, match=r"^\S+/shards/000002\.tar: utterance utt00017: audio at byte \d+ has crc32 [0-9a-f]{8}"
    ) as caught:
        good.extend(b.step for b in open_loader(broken, dataclasses.replace(CONFIG, workers=workers), epochs=1))
    assert "\n" not in str(caught.value)
    place = next(b.step for b in open_loader(dataset, CONFIG, epochs=1) if "utt00017" in b.keys)
    assert good == list(range(place))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_damage_keeps_its_place_with_weight_0(dataset, tmp_path, workers, caplog):
    broken = damaged(dataset, tmp_path, 3, 17, 39)
    config = dataclasses.replace(CONFIG, bad_record="skip", workers=workers)
    with caplog.at_level(logging.WARNING):
        loader = open_loader(broken, config, epochs=1)
        batches = list(loader)
    expected = list(open_loader(dataset, config, epochs=1))
    bad = {"utt00003", "utt00017", "utt00039"}
    assert {f.key for batch in batches for f in batch.faults} == bad
    assert [u for u in utterances(expected) if u[2] not in bad] == [u for u in utterances(batches) if u[2] not in bad]
    for batch in batches:
        weights = dict(zip(batch.keys, batch.weights.tolist(), strict=True))
        assert all(weights[key] == (key not in bad) for key in batch.keys if key)
    assert sum("crc32" in message for message in caplog.messages) == 3
    ledger = account(batches, 0)
    assert (ledger.delivered, ledger.skipped, ledger.is_complete(loader.planned(0))) == (37, 3, True)


def test_too_much_damage_stops_all_the_same(dataset, tmp_path):
    broken = damaged(dataset, tmp_path, 3, 17, 39)
    config = dataclasses.replace(CONFIG, bad_record="skip", max_bad=2)
    with pytest.raises(DatasetError, match=r"3 damaged utterances, --max-bad is 2; the last: .*crc32"):
        list(open_loader(broken, config, epochs=1))


def test_a_loader_process_that_dies(dataset):
    config = dataclasses.replace(CONFIG, workers=1)
    with pytest.raises(EnvironmentFault, match=r"a loader process died .*lower --workers"):
        list(open_loader(dataset, config, stages=[die]))


@pytest.mark.long
def test_a_script_without_a_guard_is_named(dataset, tmp_path):
    """Loader processes run the script again: without the guard each would start loader processes of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from whisper_shard import StreamConfig, open_dataset, open_loader\n"
        f"for batch in open_loader(open_dataset({str(dataset.folder)!r}), StreamConfig(workers=2), epochs=1):\n"
        "    print(batch.step)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1 and ran.stdout == ""
    *_, last = ran.stderr.strip().splitlines()
    assert re.search(r"ConfigError: .* put the code of the script under `if __name__ == \"__main__\":`", last)
    assert ran.stderr.count("bootstrapping phase") == 0


def die(records):
    for number, record in enumerate(records):
        if number == 30:
            os.kill(os.getpid(), signal.SIGKILL)
        yield record


@pytest.mark.slow
def test_loader_processes_end_with_a_killed_training_process(dataset):
    script = (
        "import os, signal, sys, time\n"
        "from whisper_shard import StreamConfig\n"
        "from whisper_shard.dataset.index import open_dataset\n"
        "from whisper_shard.stream.loader import open_loader\n"
        "if __name__ == '__main__':\n"
        "    config = StreamConfig(batch_size=4, workers=2, augment=())\n"
        "    batches = iter(open_loader(open_dataset(sys.argv[1]), config))\n"
        "    next(batches)\n"
        "    time.sleep(1)  # until both loader processes are at rest with their batches ready\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(dataset.folder)], start_new_session=True)
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30  # on a busy machine; torch's own watchdog does not notice at all
    while set(loader_processes(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(loader_processes(process.pid))


def loader_processes(session):
    """Yield the ids of the loader processes, and their fork server, that were started in a session."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and b"forkserver" in (process / "cmdline").read_bytes():
                yield process.name


def test_errors_of_a_users_stage_keep_their_kind(dataset):
    with pytest.raises(KeyError, match=r"nothing"):
        list(open_loader(dataset, CONFIG, stages=[stumble]))


def stumble(records):
    for record in records:
        yield record["nothing"]


@pytest.mark.parametrize("kind", [FileNotFoundError, ConnectionResetError, EOFError, RuntimeError, OSError])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_users_stage_is_not_the_death_of_its_process(dataset, kind, workers):
    config = dataclasses.replace(CONFIG, workers=workers)
    with pytest.raises(kind, match=r"my own stage: no such lexicon"):
        list(open_loader(dataset, config, stages=[functools.partial(complain, kind)]))


def complain(kind, records):
    for _ in records:
        raise kind("my own stage: no such lexicon")
        yield


def test_refusals(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"--batch-size 12 is not divisible by 8 ranks; use 16"):
        open_loader(dataset, CONFIG, world=8)
    loader = open_loader(dataset, CONFIG)
    state = loader.state_after(next(iter(loader)))
    for name, value in (("seed", 7), ("batch_size", 24)):
        with pytest.raises(StateError, match=rf"{name} was {getattr(CONFIG, name)}, now it is {value}"):
            open_loader(dataset, dataclasses.replace(CONFIG, **{name: value}), state=state)
    other = make_dataset(tmp_path / "other", [0.1] * 40)
    with pytest.raises(
        StateError, match=rf"index_sha256 was '{dataset.index_sha256}', now it is '{other.index_sha256}'"
    ):
        open_loader(other, CONFIG, state=state)


def test_loader_processes_end_with_the_loader(dataset):
    config = dataclasses.replace(CONFIG, workers=2)
    loader = open_loader(dataset, config)
    assert next(iter(loader)).waveforms.dtype == torch.float32
    loader.close()
    assert not [p for p in multiprocessing.active_children() if p.is_alive()]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_another_has_ended_leaves_the_other_alone(dataset, workers):
    loader = open_loader(dataset, dataclasses.replace(CONFIG, workers=workers), epochs=1)
    first = iter(loader)
    next(first)
    second = iter(loader)
    begun = [digest(next(second))]
    first.close()
    assert begun + [digest(batch) for batch in second] == digests(open_loader(dataset, CONFIG, epochs=1))


def test_an_iteration_that_another_has_ended_says_so(dataset):
    loader = open_loader(dataset, CONFIG, epochs=1)
    first = iter(loader)
    next(first)
    next(iter(loader))
    with pytest.raises(RuntimeError, match=r"another iteration over this loader has begun and ended this one"):
        next(first)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_memory(dataset):
    batch = next(iter(open_loader(dataset, CONFIG, pin_memory=True)))
    assert batch.waveforms.is_pinned() and batch.weights.is_pinned()


def test_an_error_ends_loader_processes_at_once(dataset):
    loader = open_loader(dataset, dataclasses.replace(CONFIG, workers=1), stages=[stumble])
    with pytest.raises(KeyError) as caught:
        list(loader)
    assert not multiprocessing.active_children(), "though the traceback still holds the iteration"
    assert caught.traceback


def hang(records):
    for record in records:
        time.sleep(600)
        yield record


TIMED_OUT = (
    r"no batch came from the loader processes for 3 s; the next, step 0 of epoch 0, reads .*\.tar.*: check that these "
    r"can be read and that augmentations end, or raise --load-timeout-seconds; then run again"
)


@pytest.mark.long
def test_a_loader_process_that_hangs_ends_in_an_error(dataset):
    config = dataclasses.replace(CONFIG, workers=1, load_timeout_seconds=3.0)
    loader = open_loader(dataset, config, stages=[hang])
    with pytest.raises(EnvironmentFault, match=TIMED_OUT):
        next(iter(loader))


def test_what_a_process_that_hangs_was_reading_is_named(dataset):
    loader = open_loader(dataset, dataclasses.replace(CONFIG, load_timeout_seconds=3.0))
    assert re.match(TIMED_OUT, str(loader._timeout_fault(None)))
    first = next(iter(loader))
    assert "the next, step 1 of epoch 0, reads" in str(loader._timeout_fault(first))
    loader.close()
