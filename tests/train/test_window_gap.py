"""The comparison of 30 s windows with short ones: what it measures, that it changes nothing, and what it leads to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.train.running import (
    Kill,
    assert_same_result,
    final_weights,
    lasting_metrics,
    launch,
    of_kind,
    start_ranks,
    tiny_config,
)
from whisper_shard.config.train import WindowConfig
from whisper_shard.errors import ConfigError
from whisper_shard.train import window_gap
from whisper_shard.train.events import GapMeasured, Stepped, Warned
from whisper_shard.train.loop import train_model
from whisper_shard.train.run.metrics import read_metrics
from whisper_shard.train.run.state import RunState, run_state_from_json
from whisper_shard.train.step import TrainStep
from whisper_shard.train.window_gap import GapMeter, WindowGap, choose_compared, current_full_share, judge_gap

WIDE = WindowGap(utterances=4, full=1.0, borrowed=0.7)
NARROW = WindowGap(utterances=4, full=1.0, borrowed=0.9)
REGULARIZED = {
    "precision": "fp32", "dropout": 0.3, "stochastic_depth": 0.3, "spec_augment": True, "label_smoothing": 0.1,
}  # fmt: skip


def watched(run):
    return [line for line in lasting_metrics(run) if line["kind"] == "watch"]


def test_compares_the_first_four_rows_in_short_windows():
    windows = np.array([0, 96_000, 16_000, 32_000, 0, 16_000, 48_000, 16_000])
    chosen = choose_compared(windows, longest_window=96_000)
    assert chosen.tolist() == [0, 0, 16_000, 32_000, 0, 16_000, 48_000, 0]


def test_a_gap_is_wide_in_tokens_loss_and_as_a_share_of_it():
    assert WIDE.is_wide and not NARROW.is_wide
    assert not WindowGap(utterances=4, full=0.06, borrowed=0.02).is_wide, "small in tokens' loss"
    assert not WindowGap(utterances=4, full=0.7, borrowed=1.0).is_wide, "30 s windows are better"
    assert not WindowGap(utterances=4, full=float("nan"), borrowed=0.1).is_wide


@pytest.mark.slow
def test_watching_changes_no_bit_and_no_random_state(monkeypatch, task, tmp_path):
    measure, looks = GapMeter.measure, []

    def measure_and_compare(self, *args):
        before = torch.get_rng_state()
        gap = measure(self, *args)
        looks.append((torch.equal(torch.get_rng_state(), before), self.trainable.network.training, gap))
        return gap

    monkeypatch.setattr(GapMeter, "measure", measure_and_compare)
    for every in (0, 1):
        train_model(task, tmp_path / str(every), tiny_config(task, watch_every=every, **REGULARIZED))
    assert [look[:2] for look in looks] == [(True, True)] * 6
    ours, theirs = final_weights(tmp_path / "0"), final_weights(tmp_path / "1")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert [line for line in lasting_metrics(tmp_path / "1") if line["kind"] != "watch"] == lasting_metrics(
        tmp_path / "0"
    )
    assert not watched(tmp_path / "0")


def test_compares_with_the_losses_of_the_model_as_evaluated(monkeypatch, task, tmp_path):
    """With a window that is all but full, both ways agree; regularization is off."""
    measure, found = GapMeter.measure, []

    def measure_twice(self, global_batch, limit):
        found.append([measure(self, global_batch, limit) for _ in range(2)])
        one_by_one = measure(self, global_batch, replace(limit, utterances=1))
        assert one_by_one.full == pytest.approx(found[-1][0].full, rel=1e-4)
        assert one_by_one.borrowed == pytest.approx(found[-1][0].borrowed, rel=1e-4)
        nearly_full = replace(
            global_batch, windows=np.full_like(global_batch.windows, self.builder.longest_window - 3200)
        )
        gap = measure(self, nearly_full, limit)
        assert abs(gap.gap) < 0.02 * gap.full
        return found[-1][0]

    monkeypatch.setattr(GapMeter, "measure", measure_twice)
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, watch_every=2, **REGULARIZED), events.append)
    assert all(first == second for first, second in found), "nothing is random"
    assert [event.step for event in of_kind(events, GapMeasured)] == [2, 4, 6]
    lines = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "watch"]
    for line, event in zip(lines, of_kind(events, GapMeasured), strict=True):
        assert line["utterances"] == event.utterances == 4
        assert line["gap"] == event.gap == line["loss_full"] - line["loss_borrowed"] != 0.0


def test_without_borrowed_silence_there_is_nothing_to_watch(task, tmp_path):
    train_model(task, tmp_path / "run", tiny_config(task, watch_every=1, beyond="nothing", max_steps=2))
    assert not watched(tmp_path / "run")


def judged(gaps, config, state):
    found = []
    for gap in gaps:
        found.append((judge_gap(gap, state, config), current_full_share(state, config)))
        state.step += 50
    return found


def test_warns_once_of_wide_gaps_in_a_row():
    found = judged([NARROW, WIDE, WIDE, NARROW, WIDE], WindowConfig(full_share=0.05), RunState(step=50))
    assert [bool(warning) for warning, _ in found] == [False, True, False, False, True]
    assert {share for _, share in found} == {0.05}
    assert found[1][0] == (
        "step 100: the loss of 4 utterances is 1.000 in 30 s windows and 0.700 in short ones with borrowed silence: if "
        "it stays so, and the WER does not fall, train with --full-share 0.125, or with --full-final 0.1 for 30 s "
        "windows at the end"
    )


def test_raises_the_share_after_two_wide_gaps_in_a_row_also_across_a_resume():
    config = WindowConfig(raise_full_share=True)
    found = judged([WIDE, NARROW, WIDE, WIDE, WIDE, *[WIDE] * 9], config, RunState(step=50))
    assert [share for _, share in found][:6] == [0.0, 0.0, 0.0, 0.125, 0.125, 0.25]
    assert found[-1][1] == 0.5, "no further"
    assert found[3][0].endswith("for the second time in a row: from here on --full-share is 0.125")
    state = RunState(step=50)
    judged([WIDE, WIDE, WIDE], config, state)
    restored = run_state_from_json(state.to_json())
    assert restored == state
    assert judged([WIDE], config, restored)[0][1] == 0.25


def test_raising_needs_something_to_watch():
    with pytest.raises(ConfigError, match="--raise-full-share needs --window auto, --beyond silence and --watch-every"):
        WindowConfig(raise_full_share=True, watch_every=0)
    with pytest.raises(ConfigError, match="they are auto, nothing and 50"):
        WindowConfig(raise_full_share=True, beyond="nothing")


@pytest.fixture
def any_gap_is_wide(monkeypatch):
    monkeypatch.setattr(window_gap.WindowGap, "is_wide", True)


RAISING = {"watch_every": 1, "raise_full_share": True}


@pytest.mark.slow
def test_a_raised_share_pads_more_and_warns(any_gap_is_wide, task, tmp_path):
    events = []
    train_model(task, tmp_path / "run", tiny_config(task, **RAISING, max_steps=6), events.append)
    shares = [line["full_share"] for line in watched(tmp_path / "run")]
    assert shares == [0.0, 0.125, 0.125, 0.25, 0.25, 0.375]
    padded = [line["padded_seconds"] for line in lasting_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert sum(padded[2:]) > 2.0 * sum(padded[:2]) + 6.0, "windows of 6 s among those of 1 to 3 s"
    assert len(of_kind(events, Warned)) >= 6
    page = (tmp_path / "run" / "run.html").read_text()
    assert "from here on --full-share is 0.375" in page and "loss of a token in 30 s windows, minus" in page


class Crashed(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_run_has_the_same_lines_and_shares(any_gap_is_wide, task, tmp_path):
    config = tiny_config(task, **RAISING)
    train_model(task, tmp_path / "undisturbed", config)
    for crash in (3, 5):  # between saves, after the shares 0 and 0.125

        def crash_at(event, step=crash):
            if isinstance(event, Stepped) and event.step == step:
                raise Crashed

        with pytest.raises(Crashed):
            train_model(task, tmp_path / "run", config, crash_at)
    train_model(task, tmp_path / "run", config)
    assert_same_result(tmp_path / "run", tmp_path / "undisturbed")
    assert [line["full_share"] for line in watched(tmp_path / "run")] == [0.0, 0.125, 0.125, 0.25, 0.25, 0.375]


@pytest.mark.slow
def test_a_killed_run_has_the_same_lines(task, tmp_path):
    config = tiny_config(task, watch_every=1)
    for kill in (Kill(step=3), None):
        launch(task, tmp_path / "run", config, kill=kill)
    launch(task, tmp_path / "undisturbed", config)
    assert_same_result(tmp_path / "run", tmp_path / "undisturbed")
    assert len(watched(tmp_path / "run")) == 6


def train_with_wide_gaps(_rank, task, run):
    """Train with gaps that are all wide, and return what this rank has found and done."""
    window_gap.WindowGap.is_wide = True
    measure, set_share, found = GapMeter.measure, TrainStep.set_full_share, []

    def measure_and_note(self, *args):
        found.append(str(gap := measure(self, *args)))
        return gap

    def set_and_note(self, share):
        found.append(share)
        set_share(self, share)

    GapMeter.measure, TrainStep.set_full_share = measure_and_note, set_and_note
    train_model(task, run, tiny_config(task, **RAISING))
    return found


@pytest.mark.slow
def test_ranks_find_the_same_gap_and_raise_together(task, tmp_path):
    run = tmp_path / "run"
    first, second = (end.result for end in start_ranks(2, train_with_wide_gaps, task, run))
    assert first == second
    assert [value for value in first if not isinstance(value, str)] == [0.0, 0.0, 0.125, 0.125, 0.25, 0.25, 0.375]
    assert len({value for value in first if isinstance(value, str)}) == 6
    assert max(line["utterances"] for line in watched(run)) <= 3, "those of rank 0, of six in all"


def run_out_of_memory():
    """Let the second comparison fail, by a request that no machine can meet; return how many were begun."""
    run_pass, begun = GapMeter._run_pass, []

    def ask_for_too_much(self, loss, global_batch, micro_batch, silence):
        if silence is None:  # the first passes of a comparison
            begun.append(micro_batch)
        if len(begun) > 1:
            torch.empty(2**50)
        return run_pass(self, loss, global_batch, micro_batch, silence)

    GapMeter._run_pass = ask_for_too_much
    return begun


@pytest.mark.slow
def test_training_goes_on_without_comparisons_that_do_not_fit(monkeypatch, task, tmp_path):
    config = tiny_config(task, watch_every=1, **REGULARIZED)
    train_model(task, tmp_path / "undisturbed", config)
    monkeypatch.setattr(GapMeter, "_run_pass", GapMeter._run_pass)  # put back at the end
    begun, events = run_out_of_memory(), []
    train_model(task, tmp_path / "run", config, events.append)
    assert len(begun) == 2, "no third one"
    assert [line["step"] for line in watched(tmp_path / "run")] == [1]
    assert [event.message for event in of_kind(events, Warned) if "memory" in event.message] == [
        "step 2: too little memory to compare 30 s windows with short ones, which this process gives up; "
        "--watch-every 0 never compares them"
    ]
    ours, theirs = final_weights(tmp_path / "run"), final_weights(tmp_path / "undisturbed")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def train_with_too_little_memory(rank, task, run):
    """Train with comparisons that do not fit on rank 0; return those begun there, and what came of each."""
    begun = run_out_of_memory() if rank == 0 else []
    measure, made = GapMeter.measure, []

    def measure_and_note(self, *args):
        made.append(None)
        gap = measure(self, *args)
        made[-1] = str(gap)
        return gap

    GapMeter.measure = measure_and_note
    train_model(task, run, tiny_config(task, **RAISING))
    return len(begun), made


@pytest.mark.slow
def test_all_ranks_give_up_comparisons_that_do_not_fit(task, tmp_path):
    ends = start_ranks(2, train_with_too_little_memory, task, tmp_path / "run")
    assert [end.exit_code for end in ends] == [0, 0]
    (begun, first), (_, second) = (end.result for end in ends)
    assert begun == 2
    assert first == second == [first[0], None]
    warnings = [line["message"] for line in read_metrics(tmp_path / "run") if line["kind"] == "warning"]
    assert sum("which this process gives up: --full-share stays 0" in message for message in warnings) == 1
    assert lasting_metrics(tmp_path / "run")[-1]["step"] == 6
