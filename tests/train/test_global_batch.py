"""The global batch: labels, windows and totals, the same on any number of ranks."""

import dataclasses

import numpy as np
import pytest

from tests.making import make_dataset
from whisper_shard.config.settings import replace_settings
from whisper_shard.config.stream import StreamConfig
from whisper_shard.config.train import TrainConfig
from whisper_shard.model.labels import Labeler
from whisper_shard.stream.loader import open_loader
from whisper_shard.train import global_batch as global_batch_module
from whisper_shard.train.global_batch import GlobalBatchBuilder, Requests
from whisper_shard.train.ranks import Ranks

SECONDS = np.random.default_rng(1).uniform(0.3, 4.0, 16).tolist()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("batch") / "train", SECONDS, per_shard=16)


def make_builder(tiny, ranks=None, **settings):
    config = replace_settings(TrainConfig(), settings)
    return GlobalBatchBuilder(
        labeler=Labeler(tiny.tokenizer), config=config, ranks=ranks or Ranks(), total_steps=100, longest_window=96_000
    )


def batch_of(dataset, **place):
    return next(iter(open_loader(dataset, StreamConfig(batch_size=16, workers=0, augment=()), **place)))


def build(tiny, dataset, **settings):
    return make_builder(tiny, **settings).build(batch_of(dataset), 3, Requests())


def test_labels_have_timestamps_as_often_as_configured(tiny, dataset):
    start = tiny.tokenizer.get_vocab()["<|0.00|>"]
    timed = sum(start in row.labels for row in build(tiny, dataset, timestamps=0.5).labels)
    assert 2 < timed < 14
    assert not any(start in row.labels for row in build(tiny, dataset).labels)


def test_prompts_of_the_data_are_read_but_not_in_the_loss(tiny, dataset, tmp_path):
    prompted = make_dataset(tmp_path / "train", SECONDS, per_shard=16, record={"prompt": "six seven"})
    plain, prompting = (build(tiny, each, prompts=1.0) for each in (dataset, prompted))
    history = tiny.tokenizer.convert_tokens_to_ids(["<|startofprev|>"]) + tiny.tokenizer.encode(
        " six seven", add_special_tokens=False
    )
    for row, expected in zip(prompting.labels, plain.labels, strict=True):
        assert row.decoder_input_ids == (*history, *expected.decoder_input_ids)
        assert row.labels == (*(-100,) * len(history), *expected.labels)
    assert prompting.num_tokens == plain.num_tokens


def test_prompts_are_given_as_often_as_configured(tiny, tmp_path):
    prompted = make_dataset(tmp_path / "train", SECONDS, per_shard=16, record={"prompt": "six seven"})
    history = tiny.tokenizer.convert_tokens_to_ids("<|startofprev|>")
    given = [sum(history in row.decoder_input_ids for row in build(tiny, prompted, prompts=p).labels) for p in (0, 0.5)]
    assert given[0] == 0
    assert 2 < given[1] < 14


def test_rows_without_weight_get_no_window_and_are_not_counted(tiny, dataset):
    batch = batch_of(dataset)
    batch.weights[:10] = 0.0
    found = make_builder(tiny).build(batch, 3, Requests())
    assert found.num_utterances == 6
    assert list(found.windows > 0) == [False] * 10 + [True] * 6
    assert found.num_samples == int(batch.num_samples[10:].sum())
    assert found.num_tokens == sum(label >= 0 for row in found.labels[10:] for label in row.labels)


def build_on_two_ranks(monkeypatch, tiny, dataset, requests):
    """Build the parts of two ranks in one process: what each sends is noted first, then handed to both."""
    batches = [batch_of(dataset, rank=rank, world=2) for rank in range(2)]
    builders = [make_builder(tiny, Ranks(rank=rank, world=2), full_share=0.3) for rank in range(2)]
    sent = []

    def note(rows, _ranks):
        sent.append(rows)
        return [rows, rows]

    with monkeypatch.context() as patch:
        patch.setattr(global_batch_module, "gather_rows", note)
        for builder, batch, request in zip(builders, batches, requests, strict=True):
            builder.build(batch, 3, request)
        patch.setattr(global_batch_module, "gather_rows", lambda _rows, _ranks: sent)
        return [
            builder.build(batch, 3, request)
            for builder, batch, request in zip(builders, batches, requests, strict=True)
        ]


def test_two_ranks_give_each_utterance_the_window_it_has_on_one(monkeypatch, tiny, dataset):
    alone = build(tiny, dataset, full_share=0.3)
    parts = build_on_two_ranks(monkeypatch, tiny, dataset, [Requests(), Requests()])
    expected = dict(zip(alone.local.keys, alone.windows, strict=True))
    found = {key: window for part in parts for key, window in zip(part.local.keys, part.windows, strict=True) if key}
    assert found == expected
    assert len(set(expected.values())) > 1
    for part in parts:
        for name in ("num_tokens", "num_utterances", "num_samples", "padded_samples"):
            assert getattr(part, name) == getattr(alone, name), name


def test_any_rank_can_stop_all_but_only_rank_0_decides_to_save(monkeypatch, tiny, dataset):
    ours, theirs = build_on_two_ranks(monkeypatch, tiny, dataset, [Requests(save=True), Requests(stop=15)])
    assert ours.requests == theirs.requests == Requests(stop=15, save=True)
    ours, theirs = build_on_two_ranks(monkeypatch, tiny, dataset, [Requests(stop=2), Requests(save=True)])
    assert ours.requests == theirs.requests == Requests(stop=2, save=False)


def test_a_packed_window_with_too_much_text_is_left_out_and_named(tiny, dataset):
    batch = batch_of(dataset)
    texts = ["xyzzy! " * 150, *batch.texts[1:]]
    packed = [(*batch.segments[1], *batch.segments[2]), *batch.segments[1:]]
    batch = dataclasses.replace(batch, texts=texts, segments=packed)
    found = make_builder(tiny).build(batch, 3, Requests())
    assert (list(found.dropped), found.num_dropped, found.num_utterances) == ([batch.keys[0]], 1, 15)
    assert found.windows[0] == 0


def test_an_utterance_with_times_of_too_many_phrases_keeps_its_own(tiny, dataset):
    batch = batch_of(dataset)
    phrases = [dataclasses.replace(batch.segments[0][0], text="a")] * 300
    texts = [" ".join("a" * 200), *batch.texts[1:]]
    batch = dataclasses.replace(batch, texts=texts, segments=[tuple(phrases), *batch.segments[1:]])
    builder = make_builder(tiny, timestamps=1.0)
    assert builder.build(batch, 3, Requests()).num_dropped == 0


def test_an_utterance_without_audio_still_counts(tiny, dataset):
    batch = batch_of(dataset)
    batch.num_samples[0] = 0
    found = make_builder(tiny).build(batch, 3, Requests())
    assert found.num_utterances == 16
    assert found.windows[0] > 0
