import pytest

from whisper_shard.text.repeats import find_repeated_phrase


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a a a", None),
        ("a a a a", "a"),
        ("x a b a b a b a b y", "a b"),
        ("a b a b a b a", None),
        ("a b c a b c a b c a b c", None),  # longer than what is looked for
        ("", None),
    ],
)
def test_a_phrase_more_than_three_times_in_a_row(text, phrase):
    assert find_repeated_phrase(text.split(), max_words=2, max_times=3) == phrase
