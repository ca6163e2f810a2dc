import pytest
import soundfile
import soxr
import torch
from transformers.modeling_outputs import BaseModelOutput

from tests.conftest import WHISPER_BASE
from tests.making import make_waveform
from whisper_shard.errors import ConfigError
from whisper_shard.inference.decoder import InferenceDecoder
from whisper_shard.inference.greedy import GreedyDecoder, SuppressRules, end_token, greedy_decode
from whisper_shard.model.forward import encode
from whisper_shard.model.labels import Labeler, LabelRow
from whisper_shard.model.log_mel import LogMel

CAP = 24


def make_waveforms(rows):
    waveforms = torch.zeros(rows, 30 * 16000)
    for row in range(rows):
        waveform = torch.from_numpy(make_waveform(1.0 + row, seed=row))
        waveforms[row, : len(waveform)] = waveform
    return waveforms


@torch.no_grad()
def talkative(loaded, seed=0):
    """Make a random model decode different texts from different audio, and stop now and then."""
    generator = torch.Generator().manual_seed(seed)
    decoder = loaded.model.model.decoder
    for parameter in decoder.parameters():
        parameter.mul_(1.6)
    decoder.embed_positions.weight.normal_(std=1.0, generator=generator)
    settings = loaded.model.generation_config
    first_special = settings.eos_token_id + 1
    settings.suppress_tokens = [3, 9, *range(first_special, loaded.model.config.vocab_size)]
    # The end token's row is a mean of many, so that it wins sometimes.
    decoder.embed_tokens.weight[settings.eos_token_id] = 0.55 * decoder.embed_tokens.weight[:8].sum(dim=0)
    return loaded


@torch.no_grad()
def generate(loaded, encoder_hidden, cap, **kwargs):
    prompt = {"language": "en", "task": "transcribe"} if loaded.is_multilingual else {}
    tokens = loaded.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden),
        max_new_tokens=cap, num_beams=1, do_sample=False, **prompt, **kwargs,
    )  # fmt: skip
    end = end_token(loaded.model)
    rows = [row[: row.index(end)] if end in row else row for row in tokens.tolist()]
    start = loaded.model.generation_config.decoder_start_token_id
    prefix = 4 if loaded.is_multilingual else 2
    return tuple(tuple(row[prefix:] if row[:1] == [start] else row) for row in rows)


@pytest.mark.parametrize("which", ["tiny", "english"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_hypotheses_are_those_of_generate(request, which, seed):
    loaded = talkative(request.getfixturevalue(which), seed)
    loaded.model.eval()
    labeler = Labeler(loaded.tokenizer, is_multilingual=loaded.is_multilingual)
    with torch.no_grad():
        hidden = encode(loaded.model, LogMel()(make_waveforms(6)))
    ours = greedy_decode(loaded.model, hidden, labeler.prefix_batch(6), max_new_tokens=CAP)
    assert ours.token_ids == generate(loaded, hidden, CAP)
    assert ours.hit_cap == tuple(len(row) == CAP for row in ours.token_ids)
    assert len(set(ours.token_ids)) > 1


@pytest.fixture
def case(tiny):
    loaded = talkative(tiny)
    loaded.model.eval()
    with torch.no_grad():
        hidden = encode(loaded.model, LogMel()(make_waveforms(6)))
    labeler = Labeler(loaded.tokenizer)
    plain = greedy_decode(loaded.model, hidden, labeler.prefix_batch(6), max_new_tokens=CAP)
    greedy = GreedyDecoder(InferenceDecoder(loaded.model), end_id=labeler.end_id, rules=SuppressRules.of(loaded.model))
    return loaded, hidden, labeler, plain, greedy


def make_labels(labeler, texts):
    prefix = labeler.prefix_ids()
    rows = [
        LabelRow(
            decoder_input_ids=(*prefix, *text), labels=(*(-100,) * (len(prefix) - 1), *text, labeler.end_id)
        )
        for text in texts
    ]  # fmt: skip
    return labeler.collate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("cap", [1, 2, 7, CAP])
def test_drafts_change_the_work_and_not_the_answer(case, cap):
    loaded, hidden, labeler, plain, greedy = case
    hypotheses = [list(row) for row in plain.token_ids]
    drafts = [
        hypotheses[0],
        hypotheses[1][:1],
        [],
        [*hypotheses[3][:5], 4, *hypotheses[3][6:]],
        [*hypotheses[4], 5, 6, 7],
        [11, *hypotheses[5]],
    ]
    found = greedy.decode_labels(hidden, make_labels(labeler, drafts), max_new_tokens=cap)
    expected = greedy_decode(loaded.model, hidden, labeler.prefix_batch(6), max_new_tokens=cap)
    assert found.decoded == expected


def test_a_model_that_is_right_needs_no_steps(case):
    _, hidden, labeler, plain, greedy = case
    rows = [i for i in range(6) if not plain.hit_cap[i]]
    assert rows, "the case should have hypotheses that end"
    labels = make_labels(labeler, [plain.token_ids[i] for i in rows])
    found = greedy.decode_labels(hidden[rows], labels, max_new_tokens=CAP)
    assert found.num_steps == 0
    assert found.decoded.token_ids == tuple(plain.token_ids[i] for i in rows)


def test_loss_of_the_draft_is_that_of_the_model(case):
    loaded, hidden, labeler, _, greedy = case
    labels = labeler.label_batch(["one two", "three", "four five six", "", "seven", "nine zero"])
    found = greedy.decode_labels(hidden, labels, max_new_tokens=4)
    with torch.no_grad():
        out = loaded.model(encoder_outputs=(hidden,), decoder_input_ids=labels.decoder_input_ids, use_cache=False)
    expected = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.labels.flatten(), reduction="sum")
    assert found.loss_sum == pytest.approx(float(expected), rel=1e-5)
    assert found.num_tokens == len(labels.kept)


def test_suppressed_tokens_are_never_chosen(case):
    loaded, hidden, labeler, plain, _ = case
    banned = plain.token_ids[0][0]
    prefix = labeler.prefix_batch(6)
    never = greedy_decode(loaded.model, hidden, prefix, max_new_tokens=CAP, rules=SuppressRules(always=(banned,)))
    assert all(banned not in row for row in never.token_ids)
    rules = SuppressRules.of(loaded.model)
    at_begin = SuppressRules(always=rules.always, at_begin=(*rules.at_begin, banned))
    later = greedy_decode(loaded.model, hidden, prefix, max_new_tokens=CAP, rules=at_begin)
    assert all(row[:1] != (banned,) for row in later.token_ids)


@pytest.mark.slow
def test_batches_do_not_change_the_answer(case):
    loaded, hidden, labeler, plain, _ = case
    alone = [
        greedy_decode(loaded.model, hidden[i : i + 1], labeler.prefix_batch(1), max_new_tokens=CAP) for i in range(6)
    ]
    assert tuple(one.token_ids[0] for one in alone) == plain.token_ids


def test_more_tokens_than_positions_is_refused(case):
    loaded, hidden, labeler, _, _ = case
    with pytest.raises(
        ConfigError, match="--max-new-tokens 445: with a prefix of 4 tokens the decoder has room for 444"
    ):
        greedy_decode(loaded.model, hidden, labeler.prefix_batch(6), max_new_tokens=445)


def test_low_rank_updates_act(tiny):
    from whisper_shard.model.adapters import add_lora

    add_lora(tiny.model, 4)
    for name, parameter in tiny.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    talkative(tiny).model.eval()
    with torch.no_grad():
        hidden = encode(tiny.model, LogMel()(make_waveforms(3)))
    labeler = Labeler(tiny.tokenizer)
    ours = greedy_decode(tiny.model, hidden, labeler.prefix_batch(3), max_new_tokens=8)
    assert ours.token_ids == generate(tiny, hidden, 8)


def encode_recordings(whisper_base):
    """Return encoder states of real recordings."""
    recordings = sorted((WHISPER_BASE.parents[1] / "data" / "spoken-digits" / "audios").glob("*_0.wav"))[::15]
    waveforms = torch.zeros(len(recordings), 30 * 16000)
    for row, path in enumerate(recordings):
        samples, rate = soundfile.read(path, dtype="float32")
        waveform = torch.from_numpy(soxr.resample(samples, rate, 16000))
        waveforms[row, : len(waveform)] = waveform
    with torch.no_grad():
        return encode(whisper_base.model.eval(), LogMel()(waveforms))


@pytest.fixture(scope="module")
def real(whisper_base):
    """Encoder states of real recordings, and the hypotheses of generate."""
    hidden = encode_recordings(whisper_base)
    hypotheses = generate(whisper_base, hidden, 16)
    assert len(set(hypotheses)) > 2
    return hidden, hypotheses


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hypotheses_of_real_speech_are_those_of_generate(whisper_base, real, dtype):
    hidden, theirs = real
    prefix = Labeler(whisper_base.tokenizer).prefix_batch(len(hidden))
    ours = greedy_decode(whisper_base.model.eval(), hidden, prefix, max_new_tokens=16, dtype=dtype)
    if dtype == torch.float32:
        assert ours.token_ids == theirs
    else:
        same = sum(one == other for one, other in zip(ours.token_ids, theirs, strict=True))
        assert same >= len(theirs) - 1
