from dataclasses import replace

import pytest
import torch

from tests.making import make_dataset, make_waveform
from whisper_shard.demo.tiny_whisper import make_tiny_whisper
from whisper_shard.errors import TrainingError
from whisper_shard.inference.beam import BeamDecoder
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.encoder import InferenceEncoder
from whisper_shard.inference.greedy import SuppressRules, end_token, greedy_decode
from whisper_shard.model.device import DTYPES
from whisper_shard.model.forward import SpeechLoss, encode
from whisper_shard.model.labels import Labeler
from whisper_shard.model.log_mel import LogMel
from whisper_shard.model.whisper import load_whisper
from whisper_shard.model.window import fit_window
from whisper_shard.score.evaluate import EvaluationSettings, evaluate_model, evaluate_part, finish_evaluation
from whisper_shard.stream.batch import Batch
from whisper_shard.stream.loader import open_evaluation
from whisper_shard.utterance import Phrase, Segment


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with a window of 6 s, so that full windows are cheap."""
    folder = tmp_path_factory.mktemp("small")
    make_tiny_whisper(
        folder, texts=["one two three"], width=32, encoder_layers=1, decoder_layers=1, heads=2, max_seconds=6
    )
    return load_whisper(str(folder))


def make_batch(seconds, texts, weights=None, first=0):
    waveforms = torch.zeros(len(seconds), round(max(seconds) * 16000))
    for row, length in enumerate(seconds):
        waveform = torch.from_numpy(make_waveform(length, seed=first + row))
        waveforms[row, : len(waveform)] = waveform
    return Batch(
        waveforms=waveforms,
        num_samples=torch.tensor([round(length * 16000) for length in seconds]),
        weights=torch.tensor(weights or [1.0] * len(seconds)),
        keys=tuple(f"utt{first + row}" for row in range(len(seconds))),
        texts=tuple(texts),
        languages=(None,) * len(seconds),
        tasks=(None,) * len(seconds),
        segments=((),) * len(seconds),
        epoch=0,
        step=0,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_short_window_with_borrowed_silence_estimates_the_loss_of_the_full_one(small, precision):
    labeler = Labeler(small.tokenizer)
    batch = make_batch([1.5], ["one two"])
    loss = {
        window: evaluate_model(
            small,
            [batch],
            labeler,
            EvaluationSettings(
                window=window, max_new_tokens=4, dtype=DTYPES[precision], silence_source=batch.waveforms
            ),
        ).loss
        for window in ("full", "short", "borrowed")
    }
    assert abs(loss["borrowed"] - loss["full"]) < 0.2 * abs(loss["short"] - loss["full"])


def test_borrowed_silence_needs_a_source():
    with pytest.raises(ValueError, match="windows with borrowed silence need a silence source"):
        EvaluationSettings(window="borrowed")


@pytest.mark.parametrize(("window", "window_seconds"), [("full", 6.0), ("short", 4.0)])
def test_loss_and_hypotheses_are_those_of_the_window(small, window, window_seconds):
    labeler = Labeler(small.tokenizer)
    batch = make_batch([2.0, 3.0], ["one", "two three"])
    found = evaluate_model(small, [batch], labeler, EvaluationSettings(window=window, max_new_tokens=6))
    waveforms = fit_window(batch.waveforms, round(window_seconds * 16000))
    labels = labeler.label_batch(batch.texts)
    with torch.no_grad():
        small.model.eval()
        loss, count = SpeechLoss(small.model)(waveforms, labels.decoder_input_ids, labels.labels, batch.num_samples)
        hidden = encode(small.model, LogMel()(waveforms))
    decoded = greedy_decode(small.model, hidden, labeler.prefix_batch(2), max_new_tokens=6)
    assert found.loss == pytest.approx(float(loss / count), rel=1e-5)
    assert [row.hypothesis for row in found.utterances] == [labeler.decode(ids) for ids in decoded.token_ids]
    assert [row.reference for row in found.utterances] == ["one", "two three"]
    assert found.cap_hits == sum(decoded.hit_cap)
    assert found.score.num_reference_words == 3
    assert found.wer == found.score.wer > 0


def test_beam_search_gives_its_hypotheses_and_the_same_loss(small):
    labeler = Labeler(small.tokenizer)
    batch = make_batch([2.0, 3.0], ["one", "two three"])
    settings = EvaluationSettings(max_new_tokens=6, num_beams=3)
    found = evaluate_model(small, [batch], labeler, settings)
    greedy = evaluate_model(small, [batch], labeler, replace(settings, num_beams=1))
    with torch.no_grad():
        hidden = encode(small.model.eval(), LogMel()(fit_window(batch.waveforms, 6 * 16000)))
    decoder = InferenceDecoder(small.model)
    rules, end_id = SuppressRules.of(small.model), end_token(small.model)
    beams = BeamDecoder(decoder, end_id=end_id, rules=rules, num_beams=3)
    decoded = beams.decode(hidden, labeler.prefix_batch(2), max_new_tokens=6)
    assert [row.hypothesis for row in found.utterances] == [labeler.decode(ids) for ids in decoded.token_ids]
    assert found.loss == pytest.approx(greedy.loss, rel=1e-6)


def test_times_are_those_of_a_window_decoded_with_times(small):
    from whisper_shard.inference.timestamps import TimestampRules
    from whisper_shard.inference.window_decoder import WindowDecoder

    labeler = Labeler(small.tokenizer)
    said = ((Segment(key="utt0", text="one", start_seconds=0.0, end_seconds=2.0),), ())
    batch = replace(make_batch([2.0, 3.0], ["one", "two three"]), segments=said)
    settings = EvaluationSettings(max_new_tokens=12, with_times=True)
    found = evaluate_model(small, [batch], labeler, settings)
    plain = evaluate_model(small, [batch], labeler, EvaluationSettings(max_new_tokens=12))
    with torch.no_grad():
        hidden = encode(small.model.eval(), LogMel()(fit_window(batch.waveforms, 6 * 16000)))
    first, rules = labeler.time_id(0.0), SuppressRules.of(small.model)
    windows = WindowDecoder(
        InferenceDecoder(small.model), rules=rules, start_id=labeler.start_id, no_speech_id=first - 2,
        times=TimestampRules(first_time=first, end_id=labeler.end_id),
    )  # fmt: skip
    prefixes = [labeler.prefix_ids(timestamps=True)] * 2
    for row, decoded in zip(found.utterances, windows.decode(hidden, prefixes, max_new_tokens=12), strict=True):
        text = [token for token in decoded.token_ids if token < labeler.end_id]
        assert row.hypothesis == labeler.decode(text)
        assert row.hit_cap == (len(decoded.token_ids) == 12)
        assert decoded.token_ids[0] == first + round(row.phrases[0].start / 0.02)
        assert all(0 <= phrase.start <= phrase.end <= 30 for phrase in row.phrases)
    assert [len(row.reference_phrases) for row in found.utterances] == [1, 0]
    assert found.utterances[0].reference_phrases[0] == Phrase(start=0.0, end=2.0, text="one")
    assert found.loss == pytest.approx(plain.loss, rel=1e-6)
    assert all(row.phrases is None for row in plain.utterances)


def test_times_are_decoded_greedily():
    with pytest.raises(ValueError, match="times are decoded greedily, without borrowed silence and confidence"):
        EvaluationSettings(with_times=True, num_beams=2)


def test_an_utterance_without_a_language_is_scored_in_the_one_given_to_the_model(small):
    batch = make_batch([1.0, 1.0], ["one", "two"])
    batch = replace(batch, languages=(None, "en-GB"))
    found = evaluate_part(small, [batch], Labeler(small.tokenizer, "en"), EvaluationSettings(max_new_tokens=2))
    assert [row.language for row in found.utterances] == ["en", "en-GB"]


def test_rows_of_weight_0_are_left_out(small):
    labeler = Labeler(small.tokenizer)
    both = make_batch([2.0, 3.0], ["one", "two three"], weights=[0.0, 1.0])
    found = evaluate_model(small, [both], labeler, EvaluationSettings(max_new_tokens=4))
    assert [row.key for row in found.utterances] == ["utt1"]
    assert found.score.num_reference_words == 2


def test_an_empty_evaluation_set_is_an_error(small):
    labeler = Labeler(small.tokenizer)
    with pytest.raises(TrainingError, match="the evaluation set is empty"):
        evaluate_model(small, [], labeler, EvaluationSettings())
    with pytest.raises(TrainingError, match="the evaluation set is empty"):
        evaluate_model(small, [make_batch([1.0], ["one"], weights=[0.0])], labeler, EvaluationSettings())


def test_parts_of_several_processes_add_up(small):
    labeler, settings = Labeler(small.tokenizer), EvaluationSettings(max_new_tokens=5)
    batches = [make_batch([1.0, 2.0], ["one", "two"]), make_batch([3.0], ["three one"], first=2)]
    whole = evaluate_model(small, batches, labeler, settings)
    parts = [evaluate_part(small, [batch], labeler, settings) for batch in reversed(batches)]
    joined = finish_evaluation(parts, settings)
    assert finish_evaluation([*parts, parts[0]], settings).score == whole.score
    assert joined.utterances == whole.utterances
    assert joined.score == whole.score
    assert joined.loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_batch_that_does_not_fit_into_memory_names_the_knob(small, monkeypatch):
    monkeypatch.setattr(InferenceEncoder, "encode", lambda *_: torch.empty(2**50))
    message = "evaluation of 2 utterances at once does not fit into the memory of cpu; use a smaller --eval-batch"
    with pytest.raises(TrainingError, match=message):
        evaluate_model(small, [make_batch([1.0, 2.0], ["one", "two"])], Labeler(small.tokenizer), EvaluationSettings())


def test_the_model_is_left_as_it_was(small):
    small.model.train()
    evaluate_model(small, [make_batch([1.0], ["one"])], Labeler(small.tokenizer), EvaluationSettings(max_new_tokens=2))
    assert small.model.training
    assert all(parameter.grad is None for parameter in small.model.parameters())


def test_bfloat16_comes_near_float32(small):
    labeler, batch = Labeler(small.tokenizer), make_batch([2.0, 3.0], ["one", "two three"])
    losses = [
        evaluate_model(small, [batch], labeler, EvaluationSettings(max_new_tokens=2, dtype=dtype)).loss
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_batches_of_the_stream_are_evaluated(small, tmp_path):
    dataset = make_dataset(tmp_path / "data", [1.0, 2.0, 1.5, 3.0, 2.5])
    labeler = Labeler(small.tokenizer)
    found = evaluate_model(small, open_evaluation(dataset, batch_size=2), labeler, EvaluationSettings(max_new_tokens=3))
    assert [row.key for row in found.utterances] == [f"utt{i:05d}" for i in range(5)]
    assert sorted(row.seconds for row in found.utterances) == [1.0, 1.5, 2.0, 2.5, 3.0]
