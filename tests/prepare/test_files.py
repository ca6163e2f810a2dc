"""Corpora in object storage: the same shards as from a local disk, whatever the network does."""

import csv
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare import hostile
from tests.prepare.corpora import QUICK, fingerprint, make_corpus, prepare, totals_of, write_csv
from tests.s3 import BUCKET, upload_folder
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, EnvironmentFault, ManifestError
from whisper_shard.prepare.estimate import estimate_corpus
from whisper_shard.prepare.events import Note, ShardFinished
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore
from whisper_shard.storage.stores import StorageConfig

QUICKLY = StorageConfig(retry_budget_seconds=0.3)
SETTINGS = {"shard_mb": 1, "max_reject_fraction": 0.9}
HOSTILE = ({"kind": "tests.prepare.hostile:HostileDecoder"},)
REJECTS = {"empty_file": 1, "decode_failed": 1, "truncated": 1, "missing_file": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """70 rows, of which one is cut, one empty, one no audio and one missing."""
    folder = tmp_path_factory.mktemp("corpus")
    path = make_corpus(folder, 66, extra=[("empty.wav", b""), ("broken.wav", b"RIFF of nothing")])
    whole = (folder / "audios/0.wav").read_bytes()
    (folder / "audios/cut.wav").write_bytes(whole[: len(whole) // 2])
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([("audios/cut.wav", "text of a cut one"), ("audios/none.wav", "text of none")])
    return path


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory):
    """What a run from the local disk writes: shards and other files by sha256."""
    out = tmp_path_factory.mktemp("local") / "out"
    events = prepare(corpus, out, **SETTINGS)
    assert rejects_of(events) == REJECTS
    return datasets_of(out)


def datasets_of(out):
    """The files of the datasets by sha256, but the list of rejects, whose words differ."""
    files = {name: value for name, value in fingerprint(out).items() if name.startswith(("train/", "eval/"))}
    assert len([name for name in files if name.endswith(".tar")]) > 2
    return {name: value for name, value in files.items() if name.endswith((".tar", "index.parquet", "lengths.arrow"))}


@pytest.fixture
def uploaded(s3, corpus, request):
    """The corpus in a bucket: the URL of its folder."""
    url = f"s3://{BUCKET}/corpora/{request.node.name}"
    upload_folder(corpus.parent, url)
    s3.reset_counts()
    return url


def rejects_of(events):
    return sum((Counter(split.rejects) for split in totals_of(events).values()), start=Counter())


@pytest.mark.slow
def test_shards_are_those_of_a_local_run_and_each_recording_one_request(uploaded, local, s3, tmp_path):
    events = prepare(f"{uploaded}/corpus.csv", tmp_path / "out", **SETTINGS)
    assert datasets_of(tmp_path / "out") == local
    assert rejects_of(events) == REJECTS
    fetched = Counter(path for method, path, _ in s3.requests if method == "GET" and "/audios/" in path)
    # The rows by which the size of shards is chosen are read twice, and a slow answer is asked for again.
    assert len(fetched) == 70 and fetched.total() <= 70 + 64 + 7


@pytest.mark.long
def test_bucket_to_bucket(uploaded, local, tmp_path):
    prepare(f"{uploaded}/corpus.csv", f"{uploaded}/out", **SETTINGS)
    store = ObjectStore()
    for info in store.list(parse_location(f"{uploaded}/out")):
        path = tmp_path / info.location.key.partition("/out/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get(info.location, max_bytes=1 << 30))
    assert datasets_of(tmp_path) == local


@pytest.mark.long
def test_a_local_manifest_may_name_urls(uploaded, corpus, local, tmp_path):
    with corpus.open() as file:
        header, *rows = csv.reader(file)
    named = write_csv(tmp_path / "urls.csv", [(f"{uploaded}/{name}", text) for name, text in rows], header)
    events = prepare(named, tmp_path / "out", **SETTINGS)
    assert rejects_of(events) == REJECTS
    assert sum(split.num_utterances for split in totals_of(events).values()) == 66


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["folder", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("tsv", "jsonl", "parquet", "above"))],
)
def test_other_manifests(s3, corpus, kind, tmp_path):
    """Each kind gives the same utterances from the bucket as from the disk."""
    folder = tmp_path / "corpus"
    shutil.copytree(corpus.parent / "audios", folder / "clips")
    rows = [{"audio": f"{i}.wav", "text": f"utterance number {i}"} for i in range(40)]
    name = {"folder": "", "above": "lists/corpus.csv"}.get(kind, f"corpus.{kind}")
    write_manifest(folder, kind, rows)
    url = f"s3://{BUCKET}/other/{kind}"
    upload_folder(folder, url)
    settings = {**SETTINGS, "eval_fraction": 0.0}
    prepare(folder / name, tmp_path / "local", **settings)
    events = prepare(f"{url}/{name}".rstrip("/"), tmp_path / "out", **settings)
    assert totals_of(events)["train"].num_utterances == 40
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "local")


def write_manifest(folder, kind, rows):
    if kind == "folder":
        (folder / "clips").rename(folder / "wavs")
        lines = [f"{row['audio'].removesuffix('.wav')}|{row['text']}|{row['text']}" for row in rows]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    elif kind == "above":
        (folder / "lists").mkdir()
        write_csv(
            folder / "lists/corpus.csv",
            [(f"clips\\{row['audio']}", row["text"]) for row in rows],
            header=("audio", "text"),
        )
    elif kind == "tsv":  # as Common Voice: paths without suffix, in the folder clips
        lines = ["path\tsentence", *(f"{row['audio'].removesuffix('.wav')}\t{row['text']}" for row in rows)]
        (folder / "corpus.tsv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        pa.Table.from_pylist(rows).to_pandas().to_json(folder / "corpus.jsonl", orient="records", lines=True)
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")


def shards_of(out):
    found = {name: value for name, value in fingerprint(out).items() if name.endswith(".tar")}
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["", pytest.param("/data/train-*.parquet", marks=pytest.mark.long)], ids=["folder", "pattern"]
)
def test_recordings_in_parquet_files_are_read_in_parts(s3, corpus, tmp_path, place):
    folder = tmp_path / "hub/data"
    folder.mkdir(parents=True)
    for number in range(2):
        rows = [
            {
                "audio": {"bytes": (corpus.parent / f"audios/{i}.wav").read_bytes(), "path": f"{i}.wav"},
                "text": f"utterance number {i}",
            }
            for i in range(20 * number, 20 * number + 20)
        ]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, folder / f"train-0000{number}-of-00002.parquet", row_group_size=7)
    url = f"s3://{BUCKET}/hub"
    upload_folder(folder.parent, url)
    prepare(tmp_path / "hub", tmp_path / "local", **SETTINGS)
    prepare(url + place, tmp_path / "out", **SETTINGS)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "local")


@pytest.mark.long
def test_segments_of_a_long_recording_fetch_it_once_a_shard(s3, tmp_path):
    import soundfile

    from tests.making import make_waveform

    folder = tmp_path / "corpus"
    folder.mkdir()
    soundfile.write(folder / "long.wav", make_waveform(400, seed=1), 16_000)  # 12.8 MB: goes to a temporary file
    rows = [("long.wav", f"segment number {i}", 2 * i, 2 * i + 1.5) for i in range(40)]
    write_csv(folder / "corpus.csv", rows, header=("audio", "text", "start", "end"))
    url = f"s3://{BUCKET}/segments"
    upload_folder(folder, url)
    settings = {**SETTINGS, "eval_fraction": 0.0}
    prepare(folder / "corpus.csv", tmp_path / "local", **settings)
    prepare(f"{url}/corpus.csv", tmp_path / "out", **settings)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "local")


@pytest.mark.slow
def test_a_finished_output_is_left_as_it_is_and_a_changed_recording_is_noticed(uploaded, tmp_path):
    out = tmp_path / "out"
    prepare(f"{uploaded}/corpus.csv", out, **SETTINGS)
    events = prepare(f"{uploaded}/corpus.csv", out, **SETTINGS)
    assert not [event for event in events if isinstance(event, ShardFinished)]
    store, place = ObjectStore(), parse_location(f"{uploaded}/audios/7.wav")
    data = bytearray(store.get(place, max_bytes=1 << 20))
    data[-1] ^= 1
    store.put(place, bytes(data))
    store.put(parse_location(f"{uploaded}/audios/none.wav"), bytes(data))  # was missing
    events = prepare(f"{uploaded}/corpus.csv", out, **SETTINGS)
    notes = [event.message for event in events if isinstance(event, Note) and "prepared again" in event.message]
    assert 1 <= len(notes) <= 2
    assert all(
        "('audios/7.wav') has changed: another ETag" in n or "('audios/none.wav') has changed: -1 bytes" in n
        for n in notes
    )
    assert "missing_file" not in rejects_of(events)


@pytest.mark.long
def test_a_store_that_is_down_for_a_while_is_waited_for(uploaded, local, s3, tmp_path):
    s3.inject("status", part="/audios/", status=503, code="SlowDown", times=20)
    s3.inject("reset", part="/audios/", after_bytes=1000, times=10)
    prepare(f"{uploaded}/corpus.csv", tmp_path / "out", **SETTINGS)
    assert datasets_of(tmp_path / "out") == local


@pytest.mark.slow
def test_a_store_that_stays_down_is_one_error_and_no_reject(uploaded, local, s3, tmp_path):
    def run(storage):
        return list(
            prepare_corpus(
                f"{uploaded}/corpus.csv", tmp_path / "out", PrepareConfig(**QUICK, **SETTINGS), storage=storage
            )
        )

    s3.inject("status", part="/audios/5", status=503, code="SlowDown")
    with pytest.raises(
        EnvironmentFault, match=r"^s3://\S+/audios/5\d?.wav: the server asks to slow down; given up after"
    ):
        run(QUICKLY)
    s3.heal()
    run(StorageConfig())
    assert datasets_of(tmp_path / "out") == local


@pytest.mark.long
def test_waiting_for_the_network_is_no_decoding(uploaded, local, s3, tmp_path):
    s3.delay_seconds = 0.7
    prepare(f"{uploaded}/corpus.csv", tmp_path / "out", **SETTINGS, decode_timeout_seconds=0.5)
    assert datasets_of(tmp_path / "out") == local


def test_access_denied_is_a_reject_of_one_row(uploaded, s3, tmp_path):
    s3.inject("status", part="/audios/7.wav", status=403, code="AccessDenied")
    out, url = tmp_path / "out", f"{uploaded}/corpus.csv"
    assert rejects_of(prepare(url, out, **SETTINGS)) == {**REJECTS, "permission_denied": 1}


@pytest.mark.long
def test_access_that_is_granted_or_withdrawn_later(uploaded, s3, tmp_path):
    s3.inject("status", part="/audios/7.wav", status=403, code="AccessDenied")
    out, url = tmp_path / "out", f"{uploaded}/corpus.csv"
    prepare(url, out, **SETTINGS)
    s3.inject("status", method="HEAD", part="/audios/7.wav", status=403, code="AccessDenied")
    assert not [event for event in prepare(url, out, **SETTINGS) if isinstance(event, ShardFinished)]
    s3.heal()
    assert rejects_of(prepare(url, out, **SETTINGS)) == REJECTS
    s3.inject("status", method="HEAD", part="/audios/8.wav", status=403, code="AccessDenied")
    s3.inject("status", part="/audios/8.wav", status=403, code="AccessDenied")
    with pytest.raises(
        ConfigError, match=r"/audios/8.wav: access denied, but row \d+ was read then; restore the right"
    ):
        prepare(url, out, **SETTINGS)


def test_wrong_credentials_in_the_middle_stop_the_run(uploaded, s3, tmp_path):
    s3.inject("status", part="/audios/7.wav", status=403, code="ExpiredToken")
    with pytest.raises(ConfigError, match=r"/audios/7.wav: the session of the credentials has expired; sign in again"):
        prepare(f"{uploaded}/corpus.csv", tmp_path / "out", **SETTINGS)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (
            f"s3://{BUCKET}/nothing/corpus.csv",
            ManifestError,
            "nothing/corpus.csv: no such file or folder; give the URL",
        ),
        ("s3://nowhere/corpus.csv", ConfigError, "there is no bucket 'nowhere' there"),
        ("ftp://host/corpus.csv", ConfigError, "ftp: unknown scheme; known are s3, gs, az, https"),
    ],
)
def test_a_corpus_that_is_not_there(s3, tmp_path, url, error, message):
    with pytest.raises(error, match=message):
        prepare(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_errors_in_a_manifest_name_its_url(s3, tmp_path):
    url = f"s3://{BUCKET}/faulty/corpus.csv"
    ObjectStore().put(parse_location(url), b"audio,text\n")
    with pytest.raises(ManifestError, match=f"^{url}: has a header but no row"):
        prepare(url, tmp_path / "out")


@pytest.mark.long
def test_https_and_a_dry_run(https_server, corpus, local, monkeypatch, tmp_path):
    endpoint, authority, folder = https_server
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    shutil.copytree(corpus.parent, folder / "a corpus")
    url = f"{endpoint}/a%20corpus/corpus.csv"
    found = estimate_corpus(url, PrepareConfig(**QUICK, **SETTINGS))
    assert (
        found.num_rows == 70 and Counter(p.rejection.reason for p in found.first if p.rejection)["decode_failed"] == 1
    )
    prepare(url, tmp_path / "out", **SETTINGS)
    assert datasets_of(tmp_path / "out") == local
    with pytest.raises(ManifestError, match="no such file; folders behind https cannot be listed, so name a file"):
        prepare(f"{endpoint}/none", tmp_path / "none")


@pytest.mark.long
@pytest.mark.timeout(60)
def test_a_crash_and_a_hang_cost_one_row_each(s3, tmp_path):
    extra = [("crash.bin", hostile.CRASH), ("hang.bin", hostile.HANG)]
    corpus = make_corpus(tmp_path / "corpus", 20, extra=extra)
    upload_folder(corpus.parent, f"s3://{BUCKET}/hostile")
    settings = {**SETTINGS, "decoders": HOSTILE, "decode_timeout_seconds": 1.0, "eval_fraction": 0.0}
    events = prepare(f"s3://{BUCKET}/hostile/corpus.csv", tmp_path / "out", **settings)
    assert rejects_of(events) == {"decoder_crashed": 1, "decoder_timeout": 1}
    assert totals_of(events)["train"].num_utterances == 20
