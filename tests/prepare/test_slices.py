"""Slices of a preparation, as machines of a job array make them, give the bytes of one machine."""

import os
import subprocess

import pytest

from tests.prepare.corpora import QUICK, ROOT, fingerprint, make_corpus, prepare
from tests.s3 import BUCKET
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, InUseError, StateError
from whisper_shard.prepare.events import Note, ShardFinished, SliceDone
from whisper_shard.prepare.output import lock_output, open_output, share_output
from whisper_shard.prepare.run import prepare_corpus, prepare_slice
from whisper_shard.storage.location import parse_location
from whisper_shard.storage.object_store import ObjectStore

SMALL = {"eval_fraction": 0.2, "jobs": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 100, seconds=1.1)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    prepare(corpus, out, **SMALL)
    return out


def run_slice(corpus, out, part, **settings):
    return list(prepare_slice(corpus, out, PrepareConfig(**{**QUICK, **SMALL, "slice": part, **settings})))


def datasets_of(out):
    return {split: fingerprint(out / split) for split in ("train", "eval")}


@pytest.mark.slow
def test_slices_in_any_order_give_the_bytes_of_one_run(corpus, whole, tmp_path):
    with pytest.raises(StateError, match=r"nothing has been prepared; run the slices first"):
        prepare(corpus, tmp_path, **SMALL, finish=True)
    second = run_slice(corpus, tmp_path, "2/2")
    with pytest.raises(StateError, match=r"of \d shards are not prepared, the first is shard 0\d+ of (train|eval)"):
        prepare(corpus, tmp_path, **SMALL, finish=True)
    first = run_slice(corpus, tmp_path, "1/2")
    assert isinstance(second[-1], SliceDone) and second[-1].num_missing == first[-1].num_shards > 0
    assert first[-1].num_missing == 0
    finished = [event for event in (*first, *second) if isinstance(event, ShardFinished)]
    assert len(finished) == first[-1].num_shards + second[-1].num_shards
    assert len({(event.split, event.shard) for event in finished}) == len(finished)
    assert not (tmp_path / "train/dataset.json").exists()
    assert not [e for e in prepare(corpus, tmp_path, **SMALL, finish=True) if isinstance(e, ShardFinished)]
    assert datasets_of(tmp_path) == datasets_of(whole)
    assert (tmp_path / "prepare.toml").read_bytes() == (whole / "prepare.toml").read_bytes()


def test_slices_share_what_one_run_has_alone(corpus, tmp_path):
    output = open_output(parse_location(tmp_path))
    output.state.mkdir()
    with share_output(output, part="1-of-3"):
        with share_output(output, part="2-of-3"):
            pass
        with pytest.raises(InUseError, match=r"is preparing slice 1-of-3 into it right now"), share_output(
            output, part="1-of-3"
        ):  # fmt: skip
            pass
        with pytest.raises(InUseError, match=r"another process is preparing into it right now"):
            list(prepare_corpus(corpus, tmp_path, PrepareConfig(**QUICK, eval_fraction=0.2)))
    with lock_output(output), pytest.raises(InUseError, match=r"process \d+ is preparing"), share_output(
        output, part="1-of-3"
    ):  # fmt: skip
        pass


@pytest.mark.long
def test_a_slice_waits_for_the_plan(corpus, tmp_path):
    output = open_output(parse_location(tmp_path))
    output.state.mkdir()
    config = PrepareConfig(**{**QUICK, **SMALL, "slice": "1/2"})
    events = prepare_slice(corpus, tmp_path, config)
    with lock_output(output):
        message = next(e.message for e in events if isinstance(e, Note) and "waiting" in e.message)
        assert f"waiting for the plan: {tmp_path}: process {os.getpid()} is preparing" in message
    assert isinstance(list(events)[-1], SliceDone)


@pytest.mark.long
def test_slices_into_a_bucket(s3, corpus, whole, tmp_path):
    out = f"s3://{BUCKET}/slices"
    assert run_slice(corpus, out, "1/2")[-1].num_missing > 0
    assert run_slice(corpus, out, "2/2")[-1].num_missing == 0
    prepare(corpus, out, **SMALL, finish=True)
    store, root = ObjectStore(), parse_location(out)
    found = {str(info.location)[len(str(root)) + 1 :]: info.location for info in store.list(root)}
    expected = {f"{split}/{name}" for split, names in datasets_of(whole).items() for name in names}
    assert {name for name in found if name.startswith(("train", "eval"))} == expected
    assert all(store.get(found[name], max_bytes=1 << 30) == (whole / name).read_bytes() for name in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slice": "0/3"}, r"--slice 0/3: must be I/N with 1 <= I <= N"),
        ({"slice": "4/3"}, r"--slice 4/3: must be I/N"),
        ({"slice": "one"}, r"--slice one: must be I/N"),
        ({"slice": "1/3", "finish": True}, r"--slice and --finish cannot be given together"),
        ({"slice": "1/3", "rebuild": True}, r"--slice and --rebuild cannot be given together"),
        ({"finish": True, "engine": "ray"}, r"--finish and --engine cannot be given together"),
        ({"engine": "dask"}, r"--engine dask: needs --engine-address, such as tcp://"),
        ({"engine_address": "tcp://a:1"}, r"--engine-address tcp://a:1: needs --engine dask or --engine ray"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(**settings)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, "3/4"),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, "1/2"),
        ({"PBS_ARRAY_INDEX": "2", "ARRAY_SIZE": "9"}, "2/9"),
        ({"SGE_TASK_ID": "3", "SGE_TASK_LAST": "3"}, "3/3"),
    ],
)
def test_job_arrays(variables, expected):
    command = [ROOT / "bin/prepare-array", "c.csv", "out", "--seed", "1"]
    ran = subprocess.run(
        command, env={"PATH": os.environ["PATH"], "PYTHON": "echo", **variables}, capture_output=True, text=True
    )
    assert ran.stdout == f"-m whisper_shard prepare c.csv out --seed 1 --slice {expected} --jobs 0\n"


def test_job_arrays_need_a_number():
    ran = subprocess.run([ROOT / "bin/prepare-array", "c.csv", "out"], env={}, capture_output=True, text=True)
    assert ran.returncode == 2 and "in a job array: bin/prepare-array CORPUS OUT" in ran.stderr
