import pytest
import torch

from tests.making import make_dataset
from whisper_shard.inference.language import language_tokens
from whisper_shard.model.labels import Labeler
from whisper_shard.train.events import LanguageChosen, Warned
from whisper_shard.train.language import report_language


def report(loaded, dataset, given=""):
    labeler = Labeler(loaded.tokenizer, given, is_multilingual=loaded.is_multilingual)
    return list(report_language(loaded, labeler, dataset, given, dtype=torch.float32))


@pytest.fixture(scope="module")
def untagged(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "eval", [1.0, 1.5, 2.0] * 2)


def prefer(loaded, code):
    """Let the model hear one language in any audio: the states of its decoder are the embedding of its token."""
    tokens = language_tokens(loaded.tokenizer.get_vocab())
    with torch.no_grad():
        norm, weights = loaded.model.model.decoder.layer_norm, loaded.model.proj_out.weight
        norm.weight.zero_()
        norm.bias.copy_(weights[tokens[code]])
        for other in tokens.values():
            if other != tokens[code]:
                weights[other] = -weights[tokens[code]]


def test_what_the_model_hears_is_shown_and_a_difference_warned_of(tiny, untagged):
    prefer(tiny, "de")
    chosen, warned = report(tiny, untagged)
    assert chosen == LanguageChosen(
        languages=("en",), origin="neither --language nor a column language is given", heard={"de": 6}
    )
    assert warned == Warned(
        message="training uses language en, but the model hears de in 6 of 6 evaluation utterances; "
        "give --language de if that is right"
    )


def test_no_warning_where_the_model_agrees_and_it_trains_on(tiny, untagged):
    prefer(tiny, "en")
    tiny.model.train()
    (chosen,) = report(tiny, untagged)
    assert chosen.heard == {"en": 6}
    assert tiny.model.training


def test_a_language_that_was_chosen_is_shown_only(tiny, english, untagged, tmp_path):
    assert report(tiny, untagged, "German") == [LanguageChosen(languages=("de",), origin="--language", heard={})]
    tagged = make_dataset(tmp_path / "tagged", [1.0, 1.2], record={"language": "fr"})
    (chosen,) = report(tiny, tagged)
    assert (chosen.languages, chosen.origin) == (("fr",), "column language of the evaluation data")
    assert report(english, untagged)[0].origin == "the model is English-only"
