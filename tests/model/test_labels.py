import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_shard.errors import ConfigError, TrainingError
from whisper_shard.model.labels import Labeler
from whisper_shard.model.loss import IGNORE_INDEX
from whisper_shard.model.whisper import load_whisper
from whisper_shard.utterance import Segment


def names(labeler, ids):
    return [labeler.tokenizer.convert_ids_to_tokens(i) if i != IGNORE_INDEX else "-" for i in ids]


@pytest.fixture
def labeler(tiny):
    return Labeler(tiny.tokenizer, "en", "transcribe")


@pytest.fixture
def english_labeler(english):
    return Labeler(english.tokenizer, is_multilingual=english.is_multilingual)


@pytest.fixture(scope="module")
def narrow(tiny_folder):
    """24 tokens are all there is room for."""
    return Labeler(load_whisper(str(tiny_folder)).tokenizer, max_tokens=24)


@pytest.fixture(scope="module")
def real_and_narrow(whisper_base):
    return Labeler(whisper_base.tokenizer, max_tokens=24)


def test_one_start_token_and_the_end_token_kept(labeler):
    row = labeler.label("one two", key="a")
    assert names(labeler, row.decoder_input_ids)[:4] == [
        "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"
    ]  # fmt: skip
    assert row.decoder_input_ids.count(labeler.start_id) == 1
    assert labeler.start_id not in row.labels
    assert row.labels[:3] == (IGNORE_INDEX,) * 3
    assert row.labels[-1] == labeler.end_id
    assert labeler.end_id not in row.labels[:-1]
    assert row.labels[3:-1] == row.decoder_input_ids[4:]
    assert len(row.labels) == len(row.decoder_input_ids)
    assert labeler.tokenizer.decode(row.labels[3:]) == " one two<|endoftext|>"


def test_english_only_models_have_neither_language_nor_task(english_labeler):
    row = english_labeler.label("one", language="de", task="translate")
    assert names(english_labeler, row.decoder_input_ids)[:2] == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert row.labels[0] == IGNORE_INDEX
    assert row.labels[-1] == english_labeler.end_id


def test_language_and_task_of_the_utterance_come_first(labeler):
    row = labeler.label("eins", language="de-CH", task="translate")
    assert names(labeler, row.decoder_input_ids)[1:3] == ["<|de|>", "<|translate|>"]


def test_texts_begin_with_a_space_only_where_words_have_spaces(labeler):
    assert labeler.tokenizer.decode(labeler.label("one").labels[3:-1]) == " one"
    assert labeler.tokenizer.decode(labeler.label("\u4e00", language="zh").labels[3:-1]) == "\u4e00"
    assert labeler.label("").labels[3:] == (labeler.end_id,)


def test_unknown_language_is_named(labeler):
    with pytest.raises(ConfigError, match=r"language 'tlh': the model has no token <\|tlh\|>"):
        labeler.label("Qapla", language="tlh")


def test_unknown_task_is_named(labeler):
    with pytest.raises(ConfigError, match="task 'sing' is unknown; use transcribe or translate"):
        labeler.label("one", task="sing")


def test_a_tokenizer_of_another_model_is_refused(tiny):
    class Foreign:
        def get_vocab(self):
            return {"<s>": 0}

    with pytest.raises(ConfigError, match=r"the tokenizer has no token <\|startoftranscript\|>"):
        Labeler(Foreign())


def test_too_long_a_text_names_key_and_count(labeler):
    with pytest.raises(TrainingError, match="utterance long7: its text needs 504 tokens, the decoder has 448"):
        labeler.label("one " * 500, key="long7")
    fitting = labeler.label("one " * 443)
    assert len(fitting.decoder_input_ids) <= 448


@pytest.mark.parametrize("prompt", [None, "one two"])
def test_silence_is_learned_at_the_start_token_as_whisper_says_it(labeler, prompt):
    silent = labeler.label("", prompt=prompt, teaches_silence=True)
    spoken = labeler.label("one", prompt=prompt, teaches_silence=True)
    start = silent.decoder_input_ids.index(labeler.start_id)
    assert names(labeler, silent.labels[start:]) == ["<|nospeech|>", "-", "-", "<|endoftext|>"]
    assert names(labeler, spoken.labels[start:])[:3] == ["<|en|>", "-", "-"], "or speech would be learned as silence"
    assert spoken.labels[start + 3 :] == labeler.label("one").labels[3:]
    assert set(silent.labels[:start]) <= {IGNORE_INDEX}


def test_silence_with_times_is_a_time_and_the_end(labeler):
    silent = labeler.label("", segments=(), teaches_silence=True)
    assert names(labeler, silent.decoder_input_ids[1:]) == ["<|en|>", "<|transcribe|>", "<|0.00|>"]
    assert names(labeler, silent.labels) == ["<|nospeech|>", "-", "<|0.00|>", "<|endoftext|>"]


def test_silence_in_an_english_only_model(english_labeler):
    silent = english_labeler.label("", teaches_silence=True)
    assert names(english_labeler, silent.labels) == ["<|nospeech|>", "<|endoftext|>"]
    timed = english_labeler.label("", segments=(), teaches_silence=True)
    assert names(english_labeler, timed.labels) == ["<|nospeech|>", "<|endoftext|>"]
    spoken = english_labeler.label("one", teaches_silence=True)
    assert names(english_labeler, spoken.labels)[0] == "<|notimestamps|>"


def test_prompt_is_read_but_not_learned(labeler):
    row = labeler.label("three", prompt="one two")
    assert names(labeler, row.decoder_input_ids)[0] == "<|startofprev|>"
    start = row.decoder_input_ids.index(labeler.start_id)
    assert set(row.labels[: start + 3]) == {IGNORE_INDEX}
    assert row.labels[start + 3 :] == labeler.label("three").labels[3:]
    assert len(row.labels) == len(row.decoder_input_ids)


def test_long_prompts_lose_their_begin(labeler):
    row = labeler.label("three " * 300, prompt="one two " * 500)
    assert len(row.decoder_input_ids) <= 448
    history = row.decoder_input_ids[1 : row.decoder_input_ids.index(labeler.start_id)]
    assert labeler.tokenizer.decode(history).endswith("one two")
    assert len(labeler.label("three", prompt="one " * 999).decoder_input_ids) <= 4 + 2 + 224


def test_segments_bring_time_stamps(labeler):
    segments = [
        Segment(key="a", text="one", start_seconds=0.0, end_seconds=1.239),
        Segment(key="b", text="two", start_seconds=1.5, end_seconds=30.0),
    ]
    row = labeler.label("unused", segments=segments)
    assert "<|notimestamps|>" not in names(labeler, row.decoder_input_ids)
    assert [n for n in names(labeler, row.labels) if "." in n] == ["<|0.00|>", "<|1.24|>", "<|1.50|>", "<|30.00|>"]
    assert row.labels[2] != IGNORE_INDEX
    with pytest.raises(TrainingError, match="utterance c: timestamp 31 s lies outside the window"):
        labeler.label("", key="c", segments=[Segment(key="c", text="x", start_seconds=31.0, end_seconds=32.0)])


def test_batches_are_padded_and_rows_of_weight_0_not_learned(labeler):
    batch = labeler.label_batch(["one two three", "one", "two"], keys=["a", "b", "c"], weights=[1.0, 1.0, 0.0])
    assert batch.labels.shape == batch.decoder_input_ids.shape == (3, len(labeler.label("one two three").labels))
    assert (batch.labels[2] == IGNORE_INDEX).all()
    assert batch.labels[1].tolist().count(labeler.end_id) == 1
    assert (batch.decoder_input_ids[1, 5:] == labeler.end_id).all()
    assert torch.equal(batch.kept, (batch.labels.flatten() != IGNORE_INDEX).nonzero()[:, 0])


def test_decoding_gives_the_text_back(labeler):
    row = labeler.label("three one four")
    assert labeler.decode(row.labels[3:]) == "three one four"
    assert labeler.decode(row.decoder_input_ids) == "three one four"


WORDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from([
        "don't", "<|en|>", "<|0.00|>", "<|endoftext|>", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u4f60\u597d",
        "\U00013000", "e\u0301", "'s", "1,000", "\u200b", "\ufeff",
    ]),
)  # fmt: skip
GAPS = st.sampled_from([" ", " ", " ", "  ", "\t", " \n", "\u3000", "\x85", "\x1c", "\xa0", "\u180e", ""])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=9).map(lambda parts: "".join(word + gap for word, gap in parts))


def fits(labeler, text, *, language=None, timestamps=False, prompt=None):
    segments = [Segment(key="a", text=text, start_seconds=0.0, end_seconds=1.0)] if timestamps else None
    try:
        labeler.label(text, language=language, segments=segments, prompt=prompt)
    except TrainingError:
        return False
    return True


def check_room(labeler, text, language, timestamps):
    """The answer is that of `label`, and what has few bytes always fits."""
    found = fits(labeler, text, language=language, timestamps=timestamps, prompt="before")
    assert labeler.has_room(text, language=language, timestamps=timestamps) == found
    assert found or len(text.encode()) > labeler.safe_bytes == 16


MANY_TEXTS = settings(max_examples=150, deadline=None)


@MANY_TEXTS
@given(text=TEXTS, language=st.sampled_from([None, "de", "zh"]), timestamps=st.booleans())
def test_room_for_a_text_is_known_without_its_labels(narrow, text, language, timestamps):
    check_room(narrow, text, language, timestamps)


@pytest.mark.pretrained
@MANY_TEXTS
@given(text=TEXTS, language=st.sampled_from([None, "de", "zh"]), timestamps=st.booleans())
def test_room_for_a_text_with_the_real_tokenizer(real_and_narrow, text, language, timestamps):
    check_room(real_and_narrow, text, language, timestamps)


def test_as_many_tokens_as_bytes_are_met_and_fit(labeler):
    text = "\U00013000" * 110
    assert len(text.encode()) == labeler.safe_bytes == 440
    for timestamps in (False, True):
        assert labeler.has_room(text, timestamps=timestamps) and fits(labeler, text, timestamps=timestamps)
    assert len(labeler.label(text).labels) == 4 + 441


def test_a_tokenizer_that_changes_texts_is_asked_about_each(tiny):
    from tokenizers import normalizers

    tiny.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("!", "one " * 40)
    labeler = Labeler(tiny.tokenizer, max_tokens=24)
    assert labeler.safe_bytes == -1
    assert labeler.has_room("one") and not labeler.has_room("!")


@pytest.mark.pretrained
def test_real_tokenizer_as_openai_numbers_it(whisper_base):
    labeler = Labeler(whisper_base.tokenizer)
    row = labeler.label("hello there")
    assert row.decoder_input_ids == (50258, 50259, 50359, 50363, 7751, 456)
    assert row.labels == (-100, -100, -100, 7751, 456, 50257)
