import pytest

from whisper_shard.score.alignment import AlignedWords
from whisper_shard.score.wer import compare_scores, score_texts, summarize


def test_corpus_wer_is_errors_over_words_not_a_mean():
    score = score_texts(["a b c d e f", "g"], ["a b c d e x", "h"])
    assert score.wer == pytest.approx(2 / 7)
    assert (score.substitutions, score.deletions, score.insertions, score.num_reference_words) == (2, 0, 0, 7)
    assert score.cer == pytest.approx(2 / 12)


def test_an_utterance_without_a_reference_adds_its_errors():
    assert score_texts(["", "one"], ["you", "one"]).wer == 1.0


def test_nothing_to_score():
    score = score_texts([], [])
    assert (score.wer, score.interval, score.utterances) == (0.0, (0.0, 0.0), ())


def test_utterances_are_aligned_in_the_form_compared():
    (row,) = score_texts(["One, two."], ["one three"]).utterances
    assert (row.reference, row.hypothesis) == ("one two", "one three")
    assert row.alignment == (
        AlignedWords(kind="equal", reference="one", hypothesis="one"),
        AlignedWords(kind="substitute", reference="two", hypothesis="three"),
    )


def test_words_of_languages_without_spaces_are_their_characters():
    score = score_texts(["\u4f60\u597d\u5417"], ["\u4f60\u597d"], languages=["zh"])
    assert (score.wer, score.cer) == (1 / 3, 1 / 3)
    assert (score.num_reference_words, score.chars.num_reference) == (3, 3)


def test_persian_written_without_joiners_is_correct():
    assert score_texts(["\u0645\u06cc\u200c\u0631\u0648\u0645"], ["\u0645\u06cc\u0631\u0648\u0645"]).wer == 0.0


def test_forms_change_the_score():
    kwargs = {"references": ["zero"], "hypotheses": ["Zero."]}
    assert score_texts(**kwargs, form="raw").wer == 1.0
    assert score_texts(**kwargs, form="basic").wer == 0.0
    assert score_texts(["zero"], ["0"], form="basic").wer == 1.0
    assert score_texts(["zero"], ["0"], form="whisper").wer == 0.0


def test_two_scores_are_compared_utterance_by_utterance():
    references = ["one two three four"] * 40
    good, bad = score_texts(references, references), score_texts(references, ["one two three"] * 20 + references[:20])
    found = compare_scores(good, bad)
    assert found.difference == pytest.approx(bad.wer - good.wer)
    assert found.interval[0] > 0


def test_scores_of_other_utterances_are_not_compared():
    with pytest.raises(ValueError, match="not of the same utterances"):
        compare_scores(score_texts(["a"], ["a"], keys=["k1"]), score_texts(["a"], ["a"], keys=["k2"]))


def test_rows_of_several_processes_sum_to_the_same_score():
    references, hypotheses = ["a b", "c", "d e f"], ["a b", "x", "d f f g"]
    whole = score_texts(references, hypotheses, keys=["k0", "k1", "k2"])
    parts = [score_texts(references[i : i + 1], hypotheses[i : i + 1], keys=[f"k{i}"]) for i in (2, 0, 1)]
    assert summarize([row for part in parts for row in part.utterances], form="basic") == whole
