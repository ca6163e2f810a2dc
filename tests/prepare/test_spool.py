import tracemalloc

import numpy as np
import pytest

from tests.prepare.corpora import write_csv
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.formats import open_manifest
from whisper_shard.prepare import spool as spools
from whisper_shard.prepare.order import rank_rows
from whisper_shard.prepare.plan import read_shard_rows


def make_spool(tmp_path, count):
    corpus = write_csv(tmp_path / "corpus.csv", [(f"{i}.wav", f"text {i}") for i in range(count)])
    return spools.spool_manifest(open_manifest(corpus, PrepareConfig()), tmp_path / "train.spool", PrepareConfig())


def rows_of(path, num_shards):
    return [read_shard_rows(path, shard).column("row").to_pylist() for shard in range(num_shards)]


@pytest.mark.parametrize("bucket_bytes", [64_000_000, 2_000])
def test_every_row_once_in_the_order_of_the_ranks(tmp_path, monkeypatch, bucket_bytes):
    monkeypatch.setattr(spools, "BUCKET_BYTES", bucket_bytes)
    spool = make_spool(tmp_path, 500)
    order = np.argsort(rank_rows(500, 42)).tolist()
    spools.sort_into_shards(spool, tmp_path / "eval.arrow", ranks=range(50), shard_rows=32)
    spools.sort_into_shards(spool, tmp_path / "train.arrow", ranks=range(50, 500), shard_rows=32)
    shards = [*rows_of(tmp_path / "eval.arrow", 2), *rows_of(tmp_path / "train.arrow", 15)]
    assert [row for shard in shards for row in shard] == order
    assert [len(shard) for shard in shards] == [32, 18, *[32] * 14, 2]
    assert not list(tmp_path.glob("*.bucket*"))


def test_samples_are_first_in_the_random_order_and_first_rows_in_the_manifest(tmp_path):
    spool = make_spool(tmp_path, 100)
    assert spools.sample_rows(spool, 5).column("row").to_pylist() == sorted(np.argsort(spool.order.ranks)[:5].tolist())
    assert spools.first_rows(spool, 3).column("row").to_pylist() == [0, 1, 2]
    assert len(spools.first_rows(spool, 1000)) == 100


def test_manifest_without_rows(tmp_path):
    with pytest.raises(ManifestError, match=r"corpus.csv: has a header but no row"):
        make_spool(tmp_path, 0)
    with pytest.raises(ManifestError, match=r"corpus.csv: has a header but no row"):
        spools.check_manifest(open_manifest(tmp_path / "corpus.csv", PrepareConfig()))


@pytest.mark.slow
def test_rows_are_never_all_in_memory_as_objects(tmp_path):
    tracemalloc.start()
    spools.sort_into_shards(
        make_spool(tmp_path, 60_000), tmp_path / "train.arrow", ranks=range(60_000), shard_rows=1000
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # the CSV batch of 50,000 rows is the largest thing
