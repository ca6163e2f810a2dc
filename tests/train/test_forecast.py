"""What is said before the first step is what the steps then do."""

import numpy as np
import pytest
import torch

from tests.making import make_dataset
from tests.train.running import make_task, of_kind, tiny_config
from whisper_shard.model.labels import Labeler
from whisper_shard.model.whisper import load_whisper
from whisper_shard.stream.loader import open_loader
from whisper_shard.train.build import build_trainable
from whisper_shard.train.events import Advanced, Estimated, Preparing, Started
from whisper_shard.train.forecast import device_memory, forecast_run, sample_steps
from whisper_shard.train.loop import train_model
from whisper_shard.train.progress import ESTIMATED_AFTER
from whisper_shard.train.ranks import Ranks
from whisper_shard.train.run.context import Machine
from whisper_shard.train.run.metrics import read_metrics


def test_windows_and_audio_are_those_of_the_steps(finished):
    run, _, events, _ = finished
    (started,) = of_kind(events, Started)
    steps = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert len(steps) == started.total_steps == 6
    forecast = started.forecast
    assert forecast.audio_seconds == pytest.approx(sum(line["audio_seconds"] for line in steps) / 6)
    # The margin of a window is drawn anew at each step, by the same numbers.
    assert forecast.window_seconds == pytest.approx(sum(line["padded_seconds"] for line in steps) / 6)
    assert forecast.utterances == 6
    assert forecast.windows[1] == 6.0, "the last fifth is in full windows"
    assert forecast.windows[0] < 2.0
    assert forecast.largest.window_seconds == 6.0 and forecast.largest.rows == 6
    assert forecast.num_trained == forecast.num_parameters
    assert forecast.memory.gradients == 4 * forecast.num_trained, "counted on another model, which has no data"
    assert forecast.memory.average == forecast.memory.gradients, "ema"
    assert forecast.device_bytes == device_memory(torch.device("cpu")) > 1e8


def test_a_run_says_at_each_step_how_far_it_is(finished):
    events = finished[2]
    advanced = of_kind(events, Advanced)
    assert [event.step for event in advanced] == [1, 2, 3, 4, 5, 6]
    assert all(event.remaining_seconds > 0 for event in advanced)
    (estimated,) = of_kind(events, Estimated)
    assert (estimated.steps, estimated.evaluations) == (6 - ESTIMATED_AFTER, 3)
    assert estimated.remaining_seconds == pytest.approx(
        estimated.steps * estimated.step_seconds + 3 * estimated.evaluation_seconds
    )
    prepared = [event.what for event in of_kind(events, Preparing)]
    assert prepared[0].startswith("loading ") and prepared[-1] == "hearing which language is spoken"
    assert events.index(of_kind(events, Preparing)[-1]) < events.index(advanced[0])


@pytest.mark.slow
def test_packed_windows_count_their_gaps(task, tmp_path):
    config = tiny_config(task, window="packed", pack_by="speaker", pack_gap_seconds=(0.5, 0.5), epochs=1)
    events = []
    train_model(make_task(tmp_path / "packed", train=24), tmp_path / "run", config, events.append)
    (started,) = of_kind(events, Started)
    lines = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert started.forecast.audio_seconds == pytest.approx(sum(line["audio_seconds"] for line in lines) / len(lines))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"window": "packed", "pack_by": "speaker"}])
def test_on_several_ranks_windows_are_those_of_all_rows(tiny_folder, tmp_path, settings):
    seconds = np.random.default_rng(2).uniform(0.3, 5.0, 40).tolist()
    dataset, loaded = make_dataset(tmp_path / "data", seconds), load_whisper(str(tiny_folder))
    config = tiny_config(tmp_path, batch_size=16, length_buckets=1, micro_batch=4, **settings)
    found = []
    for world in (1, 2, 4):
        machine = Machine(device=torch.device("cpu"), dtype=torch.float32, ranks=Ranks(world=world))
        found.append(
            forecast_run(
                build_trainable(loaded, config, machine), config, machine,
                loader=open_loader(dataset, config.stream, world=world), dataset=dataset,
                labeler=Labeler(loaded.tokenizer), total_steps=3,
            )
        )  # fmt: skip
    alone, *shared = found
    for forecast in shared:
        assert forecast.utterances == alone.utterances
        assert forecast.audio_seconds == pytest.approx(alone.audio_seconds)
        assert forecast.window_seconds == pytest.approx(alone.window_seconds)
        assert forecast.windows == alone.windows
        assert forecast.passes[1] < alone.passes[1]


def test_the_longest_text_decides_the_tokens(tiny_folder, tmp_path):
    dataset = make_dataset(tmp_path / "data", [1.0] * 8, text="one two three four")
    loaded = load_whisper(str(tiny_folder))
    labeler = Labeler(loaded.tokenizer)
    machine = Machine(device=torch.device("cpu"), dtype=torch.float32, ranks=Ranks())
    config = tiny_config(tmp_path, batch_size=4)
    forecast = forecast_run(
        build_trainable(loaded, config, machine), config, machine,
        loader=open_loader(dataset, config.stream), dataset=dataset, labeler=labeler, total_steps=2,
    )  # fmt: skip
    assert forecast.largest.tokens == len(labeler.label("one two three four").labels)
    assert forecast.passes == (1, 1)


def test_sampled_steps():
    assert sample_steps(3, 64) == [0, 1, 2]
    assert sample_steps(1, 64) == [0]
    assert sample_steps(1000, 3) == [0, 500, 999] or sample_steps(1000, 3) == [0, 499, 999]
    assert len(sample_steps(1_000_000, 64)) == 64
