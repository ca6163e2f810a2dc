from whisper_shard.score.confusions import Confusion, count_confusions
from whisper_shard.score.wer import score_texts


def test_errors_are_counted_by_word():
    references = ["one two three", "two three", "three"]
    hypotheses = ["one too tree", "too three", "uh three"]
    found = count_confusions(score_texts(references, hypotheses).utterances)
    two = Confusion(kind="substitute", reference="two", hypothesis="too", times=2, num_said=2)
    three = Confusion(kind="substitute", reference="three", hypothesis="tree", times=1, num_said=3)
    assert found["substitute"] == [two, three]
    assert found["delete"] == []
    assert found["insert"] == [Confusion(kind="insert", reference="", hypothesis="uh", times=1, num_said=0)]


def test_left_out_words_are_counted_one_by_one():
    (row,) = score_texts(["a b c d"], ["d"]).utterances
    assert [found.reference for found in count_confusions([row])["delete"]] == ["a", "b", "c"]
