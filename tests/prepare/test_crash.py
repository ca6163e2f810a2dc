"""Through any crash: whatever is killed, and whenever, one more run gives the bytes of a clean run."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from tests.prepare import hostile
from tests.prepare.corpora import (
    descendants,
    fingerprint,
    is_alive,
    make_corpus,
    prepare,
    start_driver,
    totals_of,
    write_csv,
)
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import EnvironmentFault, ManifestError, StateError
from whisper_shard.prepare.events import Note, PlanMade, Progress, ShardFinished
from whisper_shard.prepare.run import prepare_corpus
from whisper_shard.prepare.workers.heartbeat import find_decoding, read_heartbeats

HOSTILE = ({"kind": "tests.prepare.hostile:HostileDecoder"},)
STEPS = [
    f"{file}.{step}"
    for file in ("plan", "prepare", "shard", "receipt", "index", "lengths", "rejects", "report", "dataset")
    for step in ("written", "synced", "renamed", "committed")
]
SHORT_STEPS = ["plan.renamed", "shard.renamed", "receipt.synced", "index.renamed"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), 120, extra=[("broken.wav", b"RIFF of nothing")])


@pytest.fixture(scope="module")
def clean(corpus, tmp_path_factory):
    """The files of an uninterrupted run, by sha256."""
    out = tmp_path_factory.mktemp("clean") / "out"
    prepare(corpus, out)
    assert not [
        fault for split in ("train", "eval") for fault in verify_dataset(out / split) if isinstance(fault, Fault)
    ]
    return fingerprint(out)


def kill_at(corpus, out, step):
    process = start_driver(corpus, out, step=step)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output


def kill_after(corpus, out, seconds):
    """SIGKILL the main process, and see that its workers die with it; return whether it had come to its end."""
    process = start_driver(corpus, out)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=seconds)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    wait_until_dead(workers)
    return process.returncode == 0


def wait_until_dead(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"workers {alive} outlive their parent"
        time.sleep(0.02)


def kill_at_random(corpus, out, count, *, seed):
    """Kill ``count`` runs at random moments; when one comes to its end, begin again from nothing."""
    draws, num_ends = random.Random(seed), 0
    for _ in range(count):
        if kill_after(corpus, out, draws.uniform(0.3, 2.5)):
            num_ends += 1
            shutil.rmtree(out)
    return num_ends


@pytest.mark.slow
def test_kill_at_commit_steps_then_rerun_gives_the_same_bytes(corpus, clean, tmp_path):
    for step in SHORT_STEPS:
        kill_at(corpus, tmp_path / "out", step)
    prepare(corpus, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == clean


@pytest.mark.long
@pytest.mark.parametrize("step", STEPS)
def test_kill_at_every_commit_step(corpus, clean, tmp_path, step):
    kill_at(corpus, tmp_path / "out", step)
    prepare(corpus, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == clean


def test_kill_at_random_moments_leaves_no_orphans_and_the_same_bytes(corpus, clean, tmp_path):
    kill_at_random(corpus, tmp_path / "out", 3, seed=1)
    prepare(corpus, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == clean


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(6))
def test_kill_at_sixty_random_moments(corpus, clean, tmp_path, seed):
    kill_at_random(corpus, tmp_path / "out", 10, seed=seed)
    prepare(corpus, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == clean


def test_steps_named_here_are_all_there_are(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6)
    writer = hostile.RecordSteps(path=str(tmp_path / "steps"))
    list(prepare_corpus(corpus, tmp_path / "out", PrepareConfig(trim_db=0.0, jobs=1), writer=writer))
    assert set((tmp_path / "steps").read_text().split()) == set(STEPS)


@pytest.mark.slow
def test_hostile_recordings_are_rejected_and_all_else_is_kept(tmp_path):
    fitful = hostile.FITFUL + str(tmp_path / "tries").encode()
    evil = [("crash.bin", hostile.CRASH), ("hang.bin", hostile.HANG), ("eat.bin", hostile.EAT), ("fits.bin", fitful)]
    corpus = make_corpus(tmp_path / "corpus", 40, extra=evil)
    # The same corpus with files that are merely broken: all else must be the same.
    tame = make_corpus(tmp_path / "tame", 40, extra=[(name, b"no audio") for name, _ in evil])
    settings = {"decoders": HOSTILE, "decode_timeout_seconds": 1.0, "worker_memory_mb": 1000, "eval_fraction": 0.0}
    events = prepare(corpus, tmp_path / "out", **settings)
    prepare(tame, tmp_path / "tame_out", **settings)
    assert totals_of(events)["train"].rejects == {
        "decoder_crashed": 1,
        "decoder_out_of_memory": 1,
        "decoder_timeout": 2,
    }
    # Twice among others and twice alone; on a busy machine, the crash and the hang of others may interrupt it as well.
    assert (tmp_path / "tries").stat().st_size in (4, 6, 8)
    assert [event for event in events if isinstance(event, Note) and "crash.bin" in event.message]
    ours, theirs = fingerprint(tmp_path / "out/train"), fingerprint(tmp_path / "tame_out/train")
    assert [(name, ours[name]) for name in ours if "shards/" in name or name == "index.parquet"] == [
        (name, theirs[name]) for name in theirs if "shards/" in name or name == "index.parquet"
    ]


def test_hostile_recording_with_one_job_does_not_reach_the_main_process(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6, extra=[("crash.bin", hostile.CRASH)])
    totals = totals_of(prepare(corpus, tmp_path / "out", decoders=HOSTILE, jobs=1, eval_fraction=0.0))
    assert (totals["train"].num_utterances, totals["train"].rejects) == (6, {"decoder_crashed": 1})


def test_memory_that_runs_out_outside_of_a_decoder_is_not_blamed_on_a_recording(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 3)
    with pytest.raises(EnvironmentFault, match=r"more than --worker-memory-mb 4096 beside its shard of --shard-mb 256"):
        prepare(corpus, tmp_path / "out", jobs=1, filters=({"kind": "tests.prepare.hostile:GreedyFilter"},))


def test_recording_whose_worker_is_killed_once_is_kept(tmp_path):
    once = tmp_path / "once"
    corpus = make_corpus(tmp_path / "corpus", 6, extra=[("once.bin", hostile.DIE_ONCE + str(once).encode())])
    events = prepare(corpus, tmp_path / "out", decoders=HOSTILE, eval_fraction=0.0)
    assert once.exists()
    assert totals_of(events)["train"].num_utterances == 7
    assert any("no recording is to blame" in event.message for event in events if isinstance(event, Note))


@pytest.mark.slow
def test_worker_killed_from_outside_costs_nothing(corpus, clean, tmp_path):
    out, killed = tmp_path / "out", False
    for event in prepare_corpus(corpus, out, PrepareConfig(trim_db=0.0, jobs=2)):
        if isinstance(event, ShardFinished) and not killed:
            killed = True
            os.kill(read_heartbeats(out / ".prepare/workers")[0].pid, signal.SIGKILL)
    assert killed
    assert fingerprint(out) == clean


@pytest.mark.slow
def test_leaving_early_stops_the_workers(tmp_path):
    slow = [(f"slow{i}.bin", hostile.SLOW) for i in range(6)]
    corpus = make_corpus(tmp_path / "corpus", 70, extra=slow)
    heartbeats = tmp_path / "out/.prepare/workers"
    pids = []
    run = prepare_corpus(corpus, tmp_path / "out", PrepareConfig(trim_db=0.0, jobs=2, decoders=HOSTILE))
    for event in run:
        if isinstance(event, Progress) and find_decoding(read_heartbeats(heartbeats)):
            pids = [status.pid for status in read_heartbeats(heartbeats)]
            break
    run.close()
    assert pids
    wait_until_dead(pids, seconds=2)
    assert totals_of(prepare(corpus, tmp_path / "out", decoders=HOSTILE))["train"].num_rejects == 0


def notes_of(events):
    """What a run says, but for what it assumes, and what it finds in manifest and audio."""
    notes = [event.message for event in events if isinstance(event, Note)]
    expected = (" is CSV in ", "the evaluation set has ", "recordings: ", "text (", "audio compared by hash")
    return [note for note in notes if not any(part in note for part in expected)]


def test_two_runs_into_one_folder(corpus, tmp_path):
    run = prepare_corpus(corpus, tmp_path / "out", PrepareConfig(trim_db=0.0, jobs=1))
    assert any(isinstance(event, PlanMade) for event in run)  # behind the notes on the manifest
    with pytest.raises(StateError, match=rf"process {os.getpid()} is preparing into it right now"):
        prepare(corpus, tmp_path / "out")
    run.close()


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 1.5 MB, where mounting is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_stops_the_run_and_a_rerun_completes_it(corpus, clean, small_disk):
    out = small_disk / "out"
    with pytest.raises(EnvironmentFault, match="No space left on device; free some space, then run the same command"):
        prepare(corpus, out)
    assert EnvironmentFault.exit_code == 3
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    prepare(corpus, out)
    assert fingerprint(out) == clean


def test_failing_disk_is_never_blamed_on_a_recording(tmp_path):
    corpus, switch = make_corpus(tmp_path / "corpus", 6), tmp_path / "fails"
    switch.touch()
    config = PrepareConfig(trim_db=0.0, jobs=1)
    for step in ("shard.synced", "receipt.written", "dataset.renamed"):
        writer = hostile.FailOnce(step=step, switch=str(switch))
        with pytest.raises(EnvironmentFault, match=r"cannot write: Input/output error; fix this"):
            list(prepare_corpus(corpus, tmp_path / "out", config, writer=writer))
    switch.unlink()
    totals = totals_of(list(prepare_corpus(corpus, tmp_path / "out", config, writer=writer)))
    assert sum(split.num_utterances for split in totals.values()) == 6


@pytest.mark.slow
def test_changed_recording_makes_its_shard_stale_by_name(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 70)
    prepare(corpus, tmp_path / "out")
    (tmp_path / "corpus/audios/5.wav").write_bytes((tmp_path / "corpus/audios/6.wav").read_bytes())
    events = prepare(corpus, tmp_path / "out")
    (note,) = notes_of(events)
    assert "is prepared again: row 5 ('audios/5.wav') has changed" in note
    assert len([event for event in events if isinstance(event, ShardFinished)]) == 1
    prepare(corpus, tmp_path / "fresh")
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "fresh")


def test_damaged_or_missing_tar_is_noticed(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6)
    prepare(corpus, tmp_path / "out")
    before = fingerprint(tmp_path / "out")
    (tmp_path / "out/train/shards/000000.tar").unlink()
    notes = notes_of(prepare(corpus, tmp_path / "out"))
    assert notes[0].startswith("train shard 000000 is prepared again: 000000.tar has 0 bytes, the receipt says ")
    assert fingerprint(tmp_path / "out") == before


@pytest.mark.slow
def test_changed_configuration_names_the_settings(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6)
    prepare(corpus, tmp_path / "out", jobs=1)
    with pytest.raises(
        StateError, match=r"another configuration: min_seconds was 1.0, is 0.5; peak was 1.0, is 0.9; ch"
    ):
        prepare(corpus, tmp_path / "out", min_seconds=0.5, peak=0.9)
    rebuilt = prepare(corpus, tmp_path / "out", min_seconds=0.5, peak=0.9, rebuild=True, jobs=1)
    prepare(corpus, tmp_path / "fresh", min_seconds=0.5, peak=0.9, jobs=1)
    assert totals_of(rebuilt)
    assert fingerprint(tmp_path / "out") == fingerprint(tmp_path / "fresh")


def test_preparation_of_another_version_is_started_over(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6)
    prepare(corpus, tmp_path / "out", jobs=1)
    before = fingerprint(tmp_path / "out")
    plan = tmp_path / "out/.prepare/plan.json"
    content = json.loads(plan.read_text())
    del content["version"]  # as the first versions wrote it
    plan.write_text(json.dumps(content))
    (tmp_path / "out/train/shards/000009.tar").touch()
    events = prepare(corpus, tmp_path / "out", jobs=1)
    (note,) = notes_of(events)
    assert note == f"{tmp_path}/out: another version of whisper-shard began it; everything is prepared again"
    assert len([event for event in events if isinstance(event, ShardFinished)]) == 2
    assert fingerprint(tmp_path / "out") == before


def test_rebuild_removes_nothing_for_a_manifest_that_cannot_be_used(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 3)
    prepare(corpus, tmp_path / "out", jobs=1)
    before = fingerprint(tmp_path / "out")
    unusable = {
        b"audios,transcription\n": "has a header but no row",
        b"audios,transcription\na.wav,fine\nb.wav,\xff\n": "is not UTF-8",
    }
    for content, message in unusable.items():
        corpus.write_bytes(content)
        with pytest.raises(ManifestError, match=message):
            prepare(corpus, tmp_path / "out", jobs=1, rebuild=True)
        assert fingerprint(tmp_path / "out") == before


def test_reordered_manifest_is_noticed(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6)
    prepare(corpus, tmp_path / "out", jobs=1)
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    with pytest.raises(StateError, match=r"made from another manifest: .*corpus.csv had sha256 .* reordered"):
        prepare(corpus, tmp_path / "out", jobs=1)


def test_number_of_jobs_does_not_show_in_the_datasets(corpus, clean, tmp_path):
    prepare(corpus, tmp_path / "out", jobs=1)
    found = fingerprint(tmp_path / "out")
    assert {name: digest for name, digest in found.items() if name != "prepare.toml"} == {
        name: digest for name, digest in clean.items() if name != "prepare.toml"
    }


@pytest.mark.slow
def test_raised_limit_gives_timed_out_recordings_another_chance(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 6, extra=[("slow.bin", hostile.SLOW)])
    settings = {"decoders": HOSTILE, "jobs": 1, "eval_fraction": 0.0}
    first = totals_of(prepare(corpus, tmp_path / "out", decode_timeout_seconds=0.05, **settings))
    assert first["train"].rejects == {"decoder_timeout": 1}
    events = prepare(corpus, tmp_path / "out", decode_timeout_seconds=60.0, **settings)
    assert totals_of(events)["train"].num_rejects == 0
    assert any("decode_timeout_seconds was 0.05, is 60" in event.message for event in events if isinstance(event, Note))


@pytest.mark.slow
def test_interrupted_driver_goes_on(corpus, clean, tmp_path):
    process = start_driver(corpus, tmp_path / "out")
    for line in process.stdout:
        if line.startswith("ShardFinished"):
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=30)
    assert process.returncode != 0
    events = prepare(corpus, tmp_path / "out")
    (plan,) = [event for event in events if isinstance(event, PlanMade)]
    assert plan.num_shards_done >= 1
    assert fingerprint(tmp_path / "out") == clean


def test_manifest_of_its_own_for_evaluation(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 5)
    rows = [(f"{tmp_path}/corpus/audios/{i}.wav", f"other words {i}") for i in range(2)]
    other = write_csv(tmp_path / "other.csv", rows)
    totals = totals_of(prepare(corpus, tmp_path / "out", eval_corpus=str(other), jobs=1))
    assert (totals["train"].num_utterances, totals["eval"].num_utterances) == (5, 2)
    config = json.loads((tmp_path / "out/train/dataset.json").read_text())["config"]
    assert config["eval_corpus"] is True
