import pytest

from whisper_shard.score.alignment import AlignedWords, ErrorCounts, align_words, count_char_errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("one two three", "one two three", (0, 0, 0, 3)),
        ("one two three", "one too three", (1, 0, 0, 3)),
        ("one two three", "one three", (0, 1, 0, 3)),
        ("one two three", "one two two three", (0, 0, 1, 3)),
        ("one two three", "", (0, 3, 0, 3)),
        ("one two three four", "two tree four five", (1, 1, 1, 4)),
        ("", "", (0, 0, 0, 0)),
        ("", "thank you", (0, 0, 2, 0)),
    ],
)
def test_errors_of_hand_worked_cases(reference, hypothesis, expected):
    (found,) = align_words([reference], [hypothesis])
    counts = found.counts
    assert (counts.substitutions, counts.deletions, counts.insertions, counts.num_reference) == expected


def test_aligned_words_say_which_words_are_wrong():
    (found,) = align_words(["one two three four"], ["two tree four five"])
    assert found.words == (
        AlignedWords(kind="delete", reference="one", hypothesis=""),
        AlignedWords(kind="equal", reference="two", hypothesis="two"),
        AlignedWords(kind="substitute", reference="three", hypothesis="tree"),
        AlignedWords(kind="equal", reference="four", hypothesis="four"),
        AlignedWords(kind="insert", reference="", hypothesis="five"),
    )


def test_characters_are_counted_with_their_spaces():
    (found,) = count_char_errors(["abcd"], ["abxde"])
    assert (found.errors, found.num_reference) == (2, 4)
    (found,) = count_char_errors(["a b"], ["ab"])
    assert (found.deletions, found.num_reference) == (1, 3)


def test_nothing_to_align():
    assert align_words([], []) == []
    assert count_char_errors([], []) == []


def test_rates_without_any_reference():
    assert ErrorCounts().rate == 0.0
    assert ErrorCounts(insertions=3).rate == 1.0
