"""Foreign tars in the loader: the plan, resume and loader processes are those of any dataset."""

import numpy as np
import pytest

from tests.foreign import encode, make_index, write_tar
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.sources.local import LocalSource
from whisper_shard.errors import DatasetError
from whisper_shard.stream.delivery import Ledger
from whisper_shard.stream.loader import open_loader


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    for tar in range(3):
        members = {}
        for number in range(8):
            suffix = ("wav", "flac", "ogg")[number % 3]
            seconds = 0.2 + (number * 5 + tar) % 8 / 20
            members[f"u.{tar}.{number}.{suffix}"] = encode(seconds, suffix, rate=22_050, seed=10 * tar + number)
            members[f"u.{tar}.{number}.txt"] = f"number {tar} {number}".encode()
        write_tar(folder / f"tars/{tar}.tar", members)
    return make_index(folder / "tars", folder / "index")


class Remote(LocalSource):
    """Local tars, as if they were far away: read in runs, through the buffer."""

    threads = 2

    def is_local(self, shard):
        return False


def summary(loader):
    return [
        (batch.epoch, batch.step, tuple(batch.keys), batch.waveforms.numpy().tobytes(), tuple(batch.texts))
        for batch in loader
    ]


def config(**settings):
    return StreamConfig(**{"batch_size": 5, "seed": 3, "augment": ({"kind": "noise", "p": 1.0},), **settings})


@pytest.fixture(scope="module")
def expected(dataset):
    return summary(open_loader(dataset, config(), epochs=2))


def test_every_utterance_exactly_once_an_epoch(dataset, expected):
    ledger = Ledger()
    loader = open_loader(dataset, config(augment=()), epochs=1)
    for batch in loader:
        ledger.add(batch)
    assert ledger.is_complete(loader.planned(0))
    keys = [key for epoch, _, keys, *_ in expected if epoch == 0 for key in keys if key]
    assert sorted(keys) == sorted(dataset.columns("key")["key"])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_processes_and_sources_change_nothing(dataset, expected, workers):
    loader = open_loader(dataset, config(workers=workers), epochs=2, open_source=Remote)
    assert summary(loader) == expected


def test_resume_is_exact_in_the_middle_of_an_epoch(dataset, expected):
    loader = open_loader(dataset, config(), epochs=2)
    for batch in loader:
        state = loader.state_after(batch)
        if (batch.epoch, batch.step) == (1, 1):
            break
    loader.close()
    rest = summary(open_loader(dataset, config(), state=state, epochs=2))
    assert rest == [entry for entry in expected if entry[:2] > (1, 1)]


def test_int16_batches_round_what_float32_batches_hold(dataset):
    exact = next(iter(open_loader(dataset, config(augment=()))))
    rounded = next(iter(open_loader(dataset, config(augment=(), sample_format="int16"))))
    assert np.abs(rounded.waveforms.numpy() / 32_768 - exact.waveforms.numpy()).max() <= 0.5 / 32_768 + 1e-9


def test_damage_keeps_its_row_or_stops(dataset, tmp_path):
    path = dataset.shard_path(1)
    clean = path.read_bytes()
    offset = int(dataset.columns("audio_offset")["audio_offset"][8])
    try:
        path.write_bytes(clean[: offset + 9] + b"#" + clean[offset + 10 :])
        with pytest.raises(DatasetError, match=r"1\.tar: utterance 000000008-u_1_0-\w+: audio at byte \d+ has crc32"):
            summary(open_loader(dataset, config(), epochs=1))
        batches = list(open_loader(dataset, config(bad_record="skip"), epochs=1))
        assert sum(float(batch.weights.sum()) for batch in batches) == 23
        assert [fault.key[:9] for batch in batches for fault in batch.faults] == ["000000008"]
    finally:
        path.write_bytes(clean)
