import io
import random

import pytest

from tests.s3 import BUCKET
from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.range_file import BLOCK_BYTES, RangeFile

DATA = random.Random(0).randbytes(BLOCK_BYTES + 1_000_000)
STORE = ObjectStore()


@pytest.fixture
def info(s3):
    location = parse_location(f"s3://{BUCKET}/range/object.bin")
    STORE.put(location, DATA)
    s3.reset_counts()
    return STORE.head(location)


def test_reads_what_a_file_would(info, s3):
    file, local = io.BufferedReader(RangeFile(info, STORE)), io.BytesIO(DATA)
    rng = random.Random(1)
    for _ in range(20):
        place, count = rng.randrange(len(DATA) + 10), rng.randrange(500_000)
        assert file.seek(place) == local.seek(place)
        assert file.read(count) == local.read(count)
    assert file.seek(-7, io.SEEK_END) == len(DATA) - 7 and file.read() == DATA[-7:]


def test_reading_to_the_end_takes_one_request_a_block(info, s3):
    assert RangeFile(info, STORE).read() == DATA
    assert s3.num_gets("object.bin") == 2


def test_waiting_is_reported(info):
    waits = []

    class Pause:
        def __enter__(self):
            waits.append("begin")

        def __exit__(self, *_):
            waits.append("end")

    RangeFile(info, STORE, pause=Pause).read(10)
    assert waits == ["begin", "end"]


def test_an_object_that_is_replaced_is_noticed(info):
    file = RangeFile(info, STORE)
    file.read(10)
    STORE.put(info.location, DATA[::-1])
    file.seek(BLOCK_BYTES + 1)
    with pytest.raises(EnvironmentFault, match=r"object.bin: was removed or replaced while it was read; run the same"):
        file.read(10)
