"""With ``--duplicates drop``, one of equal utterances stays, and the output is as if the others had been rejected."""

import os
import shutil
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.making import make_waveform
from tests.prepare.corpora import fingerprint, prepare, start_driver, totals_of, write_csv
from whisper_shard.dataset.index import open_dataset
from whisper_shard.dataset.verify import Fault, verify_dataset
from whisper_shard.errors import StateError
from whisper_shard.prepare.events import Note


def make(folder, *, copies=("3.wav", "3.wav", "1.wav")):
    """Write 40 recordings in 2 shards; the last ones are copies. Return the CSV."""
    folder.mkdir()
    for i in range(40 - len(copies)):
        soundfile.write(folder / f"{i}.wav", make_waveform(1.2 + 0.01 * i, seed=i), 16_000)
    for i, name in enumerate(copies, 40 - len(copies)):
        shutil.copy(folder / name, folder / f"{i}.wav")
    return write_csv(folder / "corpus.csv", [(f"{i}.wav", f"text of row {i}") for i in range(40)])


def run(corpus, out, **settings):
    return prepare(corpus, out, **{"eval_fraction": 0.0, "duplicates": "drop", **settings})


def notes_of(events):
    return [event.message for event in events if isinstance(event, Note)]


def sources(out, split="train"):
    return set(pq.read_table(out / split / "index.parquet")["source"].to_pylist())


def test_the_first_row_stays_and_the_others_are_named(tmp_path):
    corpus, out = make(tmp_path / "corpus"), tmp_path / "out"
    events = run(corpus, out)
    totals = totals_of(events)["train"]
    assert (totals.num_rows, totals.num_utterances, dict(totals.rejects)) == (40, 37, {"duplicate": 3})
    assert sources(out) == {f"{i}.wav" for i in range(37)}
    rejects = pq.read_table(out / "train/rejects.parquet").to_pylist()
    assert sorted(row["source"] for row in rejects) == ["37.wav", "38.wav", "39.wav"]
    assert all("has the same samples as 00000000" in row["detail"] for row in rejects)
    assert all(row["seconds"] > 1 for row in rejects)
    assert "3 of 40 utterances are dropped as they repeat another one: 37.wav (train) as 3.wav" in notes_of(events)[-2]
    assert notes_of(events)[-1].endswith("no two of 37 utterances have the same; 3 were dropped")
    assert not [fault for fault in verify_dataset(out / "train") if isinstance(fault, Fault)]
    assert open_dataset(out / "train").num_utterances == 37
    before = fingerprint(out / "train")
    again = run(corpus, out)
    assert fingerprint(out / "train") == before
    assert totals_of(again)["train"] == totals


@pytest.mark.slow
def test_an_output_that_is_finished_is_changed_and_changed_back(tmp_path):
    corpus = make(tmp_path / "corpus")
    run(corpus, tmp_path / "kept", duplicates="keep")
    run(corpus, tmp_path / "dropped")
    kept, dropped = fingerprint(tmp_path / "kept/train"), fingerprint(tmp_path / "dropped/train")
    assert kept != dropped
    run(corpus, tmp_path / "kept")
    assert fingerprint(tmp_path / "kept/train") == dropped
    events = run(corpus, tmp_path / "kept", duplicates="keep")
    assert fingerprint(tmp_path / "kept/train") == kept
    assert any("of it had been dropped" in note for note in notes_of(events))


def test_what_eval_has_leaves_train(tmp_path):
    corpus = make(tmp_path / "corpus")
    shutil.copy(tmp_path / "corpus/5.wav", tmp_path / "corpus/leak.wav")
    evaluation = write_csv(tmp_path / "corpus/eval.csv", [("leak.wav", "what is evaluated")])
    events = run(corpus, tmp_path / "out", eval_corpus=str(evaluation))
    assert sources(tmp_path / "out", "eval") == {"leak.wav"}
    assert "5.wav" not in sources(tmp_path / "out")
    assert "5.wav (train) as leak.wav (eval)" in notes_of(events)[-2]
    assert not any("refuses" in note for note in notes_of(events))


@pytest.mark.slow
def test_what_stayed_and_is_gone_brings_back_what_was_dropped(tmp_path):
    corpus, out = make(tmp_path / "corpus", copies=("3.wav", "1.wav")), tmp_path / "out"
    run(corpus, out)
    assert "38.wav" not in sources(out)
    soundfile.write(tmp_path / "corpus/3.wav", make_waveform(1.7, seed=99), 16_000)
    events = run(corpus, out)
    assert {"3.wav", "38.wav"} <= sources(out)
    assert "39.wav" not in sources(out)
    run(corpus, tmp_path / "fresh")
    assert fingerprint(out / "train") == fingerprint(tmp_path / "fresh/train")
    assert any("is prepared again" in note for note in notes_of(events))


def test_many_duplicates_are_not_too_many_rejects(tmp_path):
    corpus = make(tmp_path / "corpus", copies=("3.wav",) * 30)
    totals = totals_of(run(corpus, tmp_path / "out", max_reject_fraction=0.1))["train"]
    assert totals.rejects == {"duplicate": 30}
    run(corpus, tmp_path / "out", max_reject_fraction=0.1)  # nor in a further run


def test_an_utterance_of_a_recording_that_was_cut(tmp_path):
    from tests.audio.talks import make_talk

    (tmp_path / "talks").mkdir()
    talk, _ = make_talk([0.5, 3.0, 3.0])
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / f"talks/{name}", talk, 16_000)
    half, _ = make_talk([0.5, 3.0], seed=7)
    soundfile.write(tmp_path / "talks/c.wav", np.concatenate([talk, half]), 16_000)
    totals = totals_of(run(tmp_path / "talks", tmp_path / "out", segment="vad", peak=0.0))["train"]
    assert totals.num_rows == 3
    assert totals.rejects["duplicate"] >= 5
    assert totals.num_utterances >= 4
    length = sum(soundfile.info(tmp_path / f"talks/{name}.wav").duration for name in "abc")
    assert totals.seconds_in == pytest.approx(length, abs=0.1)
    assert not [fault for fault in verify_dataset(tmp_path / "out/train") if isinstance(fault, Fault)]


def test_a_damaged_tar_is_named(tmp_path):
    corpus, out = make(tmp_path / "corpus"), tmp_path / "out"
    run(corpus, out, duplicates="keep")
    for path in (out / "train/shards").glob("*.tar"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StateError, match=r"is damaged; remove this tar and run the same command again"):
        run(corpus, out)


@pytest.mark.slow
def test_a_kill_while_shards_are_written_anew_costs_nothing(tmp_path):
    corpus, out = make(tmp_path / "corpus"), tmp_path / "out"
    run(corpus, tmp_path / "expected")
    for step in ("shard.synced", "shard.renamed", "receipt.renamed"):
        run(corpus, out, duplicates="keep")
        process = start_driver(corpus, out, step=step, eval_fraction=0.0, duplicates="drop")
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, shown
        run(corpus, out)
        assert fingerprint(out / "train") == fingerprint(tmp_path / "expected/train"), step
