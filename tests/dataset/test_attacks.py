"""A dataset made by an attacker, with consistent index and checksums: it is refused, runs nothing and fills nothing.

The rows are those that plain readers of tars fall for: pickled members, compressed members, archives that unpack to far
more than their size, headers that promise what is not there, names that lead elsewhere.
"""

import gzip
import io
import json
import os
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest
import soundfile

from tests.dataset.hostile import write_signed
from whisper_shard.audio.members import encode_npy
from whisper_shard.config.stream import StreamConfig
from whisper_shard.dataset.description import ShardInfo
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.schema import index_table
from whisper_shard.dataset.shard import ShardWriter
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.dataset.writer import write_dataset
from whisper_shard.errors import DatasetError
from whisper_shard.storage.atomic import atomic_file
from whisper_shard.stream.loader import open_loader

SAMPLES = np.arange(1600, dtype=np.int16)
CONFIG = StreamConfig(batch_size=2, workers=0, augment=())
MARK = "WHISPER_SHARD_ATTACK"


class Bomb:
    """Sets a variable of this process when it is unpickled."""

    def __reduce__(self):
        return os.putenv, (MARK, "1")


def npy_of_objects():
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    return file.getvalue()


def npy_that_claims(num_samples):
    header = f"{{'descr': '<i2', 'fortran_order': False, 'shape': ({num_samples},), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def flac_that_unpacks_to(seconds):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * seconds, np.int16), 16_000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


BODIES = {
    "a pickle": (pickle.dumps(Bomb()), "npy"),
    "an npy of objects": (npy_of_objects(), "npy"),
    "an npy that claims 4 GB": (npy_that_claims(2 * 10**9), "npy"),
    "a gzip of 400 MB": (gzip.compress(bytes(400_000_000), 9), "npy"),
    "a flac of an hour": (flac_that_unpacks_to(3600), "flac"),
    "a pickle named flac": (pickle.dumps(Bomb()), "flac"),
}


def make_set(folder, audio, suffix):
    """A dataset of one utterance whose checksums are right, whatever its audio member is."""
    (folder / "shards").mkdir(parents=True)
    with atomic_file(folder / "shards/000000.tar") as file:
        writer = ShardWriter(file, shard=0)
        writer.add(key="utt", audio=audio, suffix=suffix, num_samples=len(SAMPLES), record={"text": "hello there"})
        writer.close()
    shard = ShardInfo(name="shards/000000.tar", num_bytes=file.num_bytes, sha256=file.sha256, num_utterances=1)
    write_dataset(folder, shards=[shard], tables=[index_table(writer.rows)], meta={"codec": suffix})
    return folder


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_member_is_refused_and_fills_no_memory(tmp_path, name):
    folder = make_set(tmp_path / "set", *BODIES[name])
    os.unsetenv(MARK)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"000000\.tar: utterance utt: (npy|flac) member"):
        list(open_loader(open_dataset(folder), CONFIG, epochs=1))
    faults = [event for event in verify_dataset(folder) if isinstance(event, Fault)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [fault.key for fault in faults] == ["utt"]
    assert peak < 20e6 + 3 * len(BODIES[name][0])
    assert os.popen(f"echo ${MARK}").read().strip() == ""


@pytest.mark.parametrize("codec", ["pkl", "pickle", "pth", "pyd", "npy.gz", "npz", "tar.xz", ""])
def test_a_codec_that_others_would_unpickle_or_unpack_is_refused(tmp_path, codec):
    folder = make_set(tmp_path / "set", encode_npy(SAMPLES), "npy")
    content = json.loads((folder / "dataset.json").read_text())
    write_signed(folder, {**content, "codec": codec})
    with pytest.raises(DatasetError, match=r"dataset.json"):
        list(open_loader(open_dataset(folder), CONFIG, epochs=1))


@pytest.mark.parametrize(
    "name",
    [
        "pipe:touch hacked", "/etc/passwd", "../../etc/passwd", "shards/../../x.tar", "shards/${SECRET}.tar",
        "s3://other/000000.tar", "https://example.org/000000.tar", "shards/000000.tar.gz",
        "shards/{000000..000009}.tar", "shards/000000.tar\n",
    ],
)  # fmt: skip
def test_a_shard_name_that_leads_elsewhere_is_refused(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "000000")
    monkeypatch.setenv("GOPEN_REWRITE", "shards/=elsewhere/")
    folder = make_set(tmp_path / "set", encode_npy(SAMPLES), "npy")
    content = json.loads((folder / "dataset.json").read_text())
    content["shards"][0]["name"] = name
    write_signed(folder, content)
    with pytest.raises(DatasetError, match=r"dataset.json: .*shard"):
        open_dataset(folder)
    assert not (tmp_path / "hacked").exists()


def header(name, size, *, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, linkname
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "hostile",
    [
        header("../../etc/cron.d/x.npy", 3328), header("/abs/utt.npy", 3328), header("utt.pkl", 3328),
        header("utt.npy.gz", 3328), header("utt.npy", 3327), header("utt.npy", 8**11 - 1),
        header("utt.npy", 3328, kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
        header("utt.npy", 3328, kind=tarfile.GNUTYPE_SPARSE), header("utt.npy", 3328, kind=tarfile.LNKTYPE),
        header("utt.npy", 3328)[:124] + b"\x80" + b"\xff" * 11 + header("utt.npy", 3328)[136:],  # a negative size
        bytes(512),
    ],
)  # fmt: skip
def test_a_hostile_tar_header_is_refused(tmp_path, hostile):
    folder = make_set(tmp_path / "set", encode_npy(SAMPLES), "npy")
    shard = folder / "shards/000000.tar"
    content = shard.read_bytes()
    assert content[:512] == header("utt.npy", 3328)
    shard.write_bytes(hostile[:512] + content[512:])
    with pytest.raises(DatasetError, match=r"utterance utt: tar header at byte 0 is not that of a 3328-byte utt\.npy"):
        list(open_loader(open_dataset(folder), CONFIG, epochs=1))
    assert any("tar header" in event.detail for event in verify_dataset(folder) if isinstance(event, Fault))
