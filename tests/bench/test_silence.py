"""The study of borrowed silence: its corpora are what their names say, its runs resume, its comparisons are paired."""

import itertools
import json
import signal
import time

import numpy as np
import pytest

from benchmarks import silence_corpora
from benchmarks.bench_silence import (
    POLICIES,
    RECIPES,
    add_up,
    compare,
    compare_all,
    plan_run,
    print_table,
    spread_of_gaps,
)
from benchmarks.bench_windows import StepClock
from benchmarks.silence_runs import Meter, Run, make_run, refresh_rarely
from benchmarks.speech import Spoken
from whisper_shard.errors import StopRequested
from whisper_shard.train.events import Advanced, Evaluating

RATE = 16_000


def speak(seconds: float, key: str = "read-0") -> Spoken:
    time = np.arange(round(seconds * RATE)) / RATE
    return Spoken(key=key, waveform=(0.5 * np.sin(440.0 * time)).astype(np.float32), text=key, speaker="one")


def power_db(waveform):
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


@pytest.mark.parametrize("make", [silence_corpora.make_noise, silence_corpora.make_music])
def test_a_background_is_10_db_below_the_speech_and_reaches_both_ends(make):
    speech = speak(1.3).waveform
    padded = np.pad(speech, (RATE, RATE))
    mixed = silence_corpora.add_background(padded, speech, make(len(padded), np.random.default_rng(0)))
    background = mixed - padded  # nothing clips here, so nothing was scaled
    assert power_db(speech) - power_db(background) == pytest.approx(10, abs=0.1)
    assert np.abs(mixed[-RATE // 10 :]).max() > 0 and np.abs(mixed[: RATE // 10]).max() > 0


def test_a_mix_that_would_clip_is_scaled_down():
    loud = np.ones(RATE, np.float32)
    mixed = silence_corpora.add_background(loud, loud, silence_corpora.make_noise(RATE, np.random.default_rng(0)))
    assert np.abs(mixed).max() == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "is_silent"), [("noise", False), ("music", False), ("gated-noise", True)])
def test_noise_goes_on_after_the_speech_unless_it_stops_with_it(name, is_silent, monkeypatch):
    monkeypatch.setattr(silence_corpora, "mix_speech", lambda *_, **__: iter([speak(1.0)]))
    (one,) = silence_corpora.CORPORA[name](None, True)
    end = one.waveform[-RATE // 5 :]
    assert (np.abs(end).max() == 0) == is_silent


@pytest.mark.parametrize("shortest", [0.0, 4.0])
def test_joined_utterances_have_the_lengths_asked_for(shortest):
    lengths = np.random.default_rng(1).uniform(0.3, 2.5, 200)
    spoken = itertools.cycle([speak(seconds, f"read-{n}") for n, seconds in enumerate(lengths)])
    longest = [5.0, 6.0, 5.5, 7.0]
    joined = list(silence_corpora.join(spoken, longest, shortest=shortest))
    for one, most in zip(joined, longest, strict=True):
        assert max(shortest, 0.7 * most) <= len(one.waveform) / RATE <= most
        sounding = np.abs(one.waveform).reshape(-1)
        assert len(one.text.split()) == 1 + silent_runs(sounding, round(0.3 * RATE))
    assert len({one.key for one in joined}) == len(joined)


def silent_runs(sounding, least: int) -> int:
    """Return how often at least so many samples in a row are zero."""
    return sum(1 for zero, run in itertools.groupby(sounding == 0) if zero and len(list(run)) >= least)


@pytest.mark.parametrize(("every", "computed"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 0, 0, 3, 3, 3]), (0, [0] * 6)])
def test_silence_is_computed_anew_as_often_as_asked(every, computed):
    encode = refresh_rarely(lambda batch: batch, every)
    assert [encode(step) for step in range(6)] == computed


def test_silence_is_computed_where_the_first_steps_need_none():
    answers = iter([None, "silence", "later"])
    encode = refresh_rarely(lambda _: next(answers), 0)
    assert [encode(None) for _ in range(3)] == [None, "silence", "silence"]


@pytest.mark.parametrize("name", [f"{recipe}:{policy}:3" for recipe in RECIPES for policy in POLICIES])
def test_each_run_has_its_own_folder_and_its_policy(name, tmp_path):
    run, recipe = plan_run(name, tmp_path, threads=1)
    assert run.folder.relative_to(tmp_path).parts == (name.split(":")[0], f"{name.split(':')[1]}-3")
    assert recipe.corpus in silence_corpora.CORPORA
    assert run.settings["seed"] == 3
    assert (run.settings.get("window") == "full") == (":full:" in name)


@pytest.fixture
def plan(task, tmp_path):
    """Return the plan of a small run of the tiny task."""

    def make(name: str, **settings) -> Run:
        flat = {
            "language": "en",
            "max_steps": 6,
            "batch_size": 6,
            "eval_every": 3,
            "lr": 1e-3,
            "workers": 0,
            "threads": 1,
        }
        flat |= {"patience": 0, "tensorboard": False, "log_every": 1, **settings}
        return Run(data=task, folder=tmp_path / "tiny" / name, settings=flat, marks=2, tested=0)

    return make


@pytest.mark.slow
def test_runs_are_measured_utterance_by_utterance_and_compared(plan, task, tmp_path, capsys):
    for run in (plan("full-1", window="full"), plan("auto-1")):
        make_run(run, str(task / "tiny"))
        assert not (run.folder / "train").exists()
    result = compare_all(tmp_path)
    found = result["tiny"]["against_rival"]["auto"]
    marks = result["tiny"]["runs"]["auto-1"]["marks"]
    assert list(marks) == [0, 3, 6] and set(marks[6]) == {"full", "borrowed", "short"}
    assert marks[0]["full"] == result["tiny"]["runs"]["full-1"]["marks"][0]["full"], "the same model before training"
    assert marks[6]["full"]["all"]["loss"] < marks[0]["full"]["all"]["loss"]
    loss = found["steps"][6]["all"]["loss"]
    assert loss["ours"] == marks[6]["full"]["all"]["loss"]
    assert loss["difference_interval"][0] <= loss["ours"] - loss["theirs"] <= loss["difference_interval"][1]
    transfer = result["tiny"]["runs"]["auto-1"]["full_against_borrowed"][6]["all"]["loss"]
    assert [transfer[side] for side in ("ours", "theirs")] == [marks[6][w]["all"]["loss"] for w in ("full", "borrowed")]
    print_table(result)
    printed = capsys.readouterr().out
    assert "\n| tiny | auto, 1 | full | 6 | " in printed and "\n| tiny | auto-1 | 6 | " in printed


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(plan, task, monkeypatch):
    whole, stopped = plan("auto-1"), plan("auto-2")
    make_run(whole, str(task / "tiny"))
    evaluate = Meter.evaluate

    def evaluate_and_stop(self, window="full"):
        if self._trainer.state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(self, window)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "evaluate", evaluate_and_stop)
        with pytest.raises(StopRequested, match="step"):
            make_run(stopped, str(task / "tiny"))
    assert not (stopped.folder / "run.json").exists()
    make_run(stopped, str(task / "tiny"))
    ends = [json.loads((run.folder / "marks.jsonl").read_text().splitlines()[-1]) for run in (whole, stopped)]
    assert ends[0] == ends[1]
    assert len((stopped.folder / "cpu_seconds.txt").read_text().split()) == 2


def write_run(folder, rows, cpu_seconds=1.0):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"cpu_seconds": cpu_seconds}))
    (folder / "marks.jsonl").write_text(json.dumps({"step": 9, "full": rows}) + "\n")
    return folder


def row(key, errors, words=4, loss=0.5, tokens=5):
    return {"key": key, "errors": errors, "words": words, "loss": loss, "tokens": tokens}


def test_seeds_are_added_and_kinds_of_speech_kept_apart(tmp_path):
    ours = [write_run(tmp_path / f"auto-{n}", [row("test-1", 1), row("read-1", n)]) for n in (1, 2)]
    theirs = [write_run(tmp_path / f"full-{n}", [row("read-1", 0), row("test-1", 1)], 4.0) for n in (1, 2)]
    found = compare(ours, theirs)
    assert found["seeds"] == 2 and found["cpu_share"] == 0.25
    rows = found["steps"][9]
    assert rows["all"]["wer"] == {"ours": 5 / 16, "theirs": 2 / 16, "difference_interval": (0.0, 3 / 8)}
    assert rows["read"]["wer"]["difference_interval"] == (3 / 8, 3 / 8)
    assert rows["digits"]["wer"]["difference_interval"] == (0.0, 0.0)


def test_an_unfinished_run_is_compared_as_far_as_it_went(tmp_path):
    ours = write_run(tmp_path / "tiny" / "auto-1", [row("read-1", 1)])
    theirs = write_run(tmp_path / "tiny" / "full-1", [row("read-1", 0)])
    with (ours / "marks.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, "full": [row("read-1", 0)]}) + "\n")
    (theirs / "run.json").unlink()
    found = compare_all(tmp_path)["tiny"]
    assert found["against_rival"]["auto"]["cpu_share"] is None
    assert list(found["against_rival"]["auto"]["steps"]) == [9]
    assert "cpu_seconds" not in found["runs"]["full-1"] and list(found["runs"]["auto-1"]["marks"]) == [9, 12]


def test_the_gaps_of_fours_are_those_that_training_would_find():
    full = [row(f"read-{n}", 0, loss=10.0 + n) for n in range(8)]
    wide = spread_of_gaps(full, [row(f"read-{n}", 0, loss=2.0) for n in range(8)])
    assert wide["too_wide"] == 1.0
    assert wide["quantile_99"] == pytest.approx((4 + 5 + 6 + 7 + 4 * 8) / 20, abs=0.06), "the four largest, or almost"
    assert spread_of_gaps(full, full) == {"fours": 10_000, "quantile_99": 0.0, "too_wide": 0.0}


def test_the_cost_of_a_step_is_counted_and_that_of_an_evaluation_is_not(monkeypatch):
    clock, seconds = StepClock(), itertools.count(int(time.process_time()) + 1)
    monkeypatch.setattr(time, "process_time", lambda: next(seconds))
    advanced = Advanced(step=1, total_steps=2, remaining_seconds=None)
    clock(Evaluating(num_done=1, num_utterances=1, window="full"))
    for event in (advanced, Evaluating(num_done=1, num_utterances=1, window="full"), advanced):
        clock(event)
    assert clock.cpu_seconds == 2


def test_runs_scored_on_other_utterances_are_not_compared():
    with pytest.raises(ValueError, match="the same utterances"):
        add_up([[row("a", 1)], [row("b", 1)]], {"a", "b"}, "errors")
