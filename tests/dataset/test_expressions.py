import pyarrow as pa
import pytest

from whisper_shard.dataset.expressions import evaluate, parse_condition
from whisper_shard.errors import ConfigError

COLUMNS = {
    "seconds": pa.array([1.0, 2.0, 3.0]),
    "num_chars": pa.array([10, 40, 60], pa.int32()),
    "snr_db": pa.array([10.1, 20.0, None], pa.float32()),
    "text": pa.array(["One two", "TWO", "three"]),
    "language": pa.array(["en", None, "de"]),
    "base.cer": pa.array([0.1, 0.5, 0.9]),
}
T, F, N = True, False, None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seconds < 2", [T, F, F]),
        ("seconds >= 2.0", [F, T, T]),
        ("num_chars / seconds > 15", [F, T, T]),
        ("-seconds + 2 * num_chars - 1 == 18", [T, F, F]),
        ("1 < seconds <= 3", [F, T, T]),
        ("snr_db == 10.1", [T, F, N]),
        ("10.1 >= snr_db", [T, F, N]),
        ("not snr_db > 15", [T, F, N]),
        ("snr_db > 15 or seconds > 2", [F, T, T]),
        ("(snr_db < 15 and seconds < 2)", None),
        ("snr_db is None", [F, F, T]),
        ("snr_db is not None", [T, T, F]),
        ("language in ['en', 'fr']", [T, N, F]),
        ("language not in ('en',)", [F, N, T]),
        ("seconds in [1, 3]", [T, F, T]),
        ("lower(text) == 'two'", [F, T, F]),
        ("len(text) > 4", [T, F, T]),
        ("contains(text, 'two') or startswith(text, 'T') or endswith(text, 'ee')", [T, T, T]),
        ("matches(text, '^[A-Z]+$')", [F, T, F]),
        ("abs(seconds - 2) < 0.5", [F, T, F]),
        ("base.cer < 0.4", [T, F, F]),
        ("True", [T, T, T]),
    ],
)
def test_conditions(text, expected):
    if expected is None:
        first, second = parse_condition(text)
        assert (first.text, second.text) == ("snr_db < 15", "seconds < 2")
    else:
        (clause,) = parse_condition(text)
        assert evaluate(clause, COLUMNS).to_pylist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"--where is empty; give a condition"),
        ("seconds <", r"--where 'seconds <': invalid syntax"),
        ("seconds < 2; 1", r"invalid syntax"),
        ("snr > 3", r"there is no column snr; did you mean 'snr_db'\?"),
        ("unlike > 3", r"there is no column unlike; there are seconds, num_chars"),
        ("text < 25", r"--where: text is text, and 25 is a number: these cannot be compared"),
        ("seconds", r"--where: seconds is a number, not a condition"),
        ("seconds + text > 1", r"--where: text is text, but a number is needed there"),
        ("not text", r"--where: text is text, but truth is needed there"),
        ("language == None", r"--where: None is compared with `is None` or `is not None`"),
        ("language is 'en'", r"cannot follow `is`: only None can"),
        ("language in 'en'", r"--where: 'en' is not a list; `in` needs one"),
        ("language in [seconds]", r"--where: seconds is not a value"),
        ("seconds in ['en']", r"--where: seconds is a number, and 'en' is text"),
        ("open('x') == 1", r"there is no function open; there are abs, len, lower, contains"),
        ("len() > 1", r"has 0 arguments, len takes 1"),
        ("matches(text, '(')", r"--where: '\(' is not a regular expression"),
        ("matches(text, text)", r"--where: text is not a text in quotes"),
        ("seconds if 1 else 2", r"is not allowed in a condition"),
        ("(lambda: 1)() == 1", r"is not allowed in a condition"),
        ("text[0] == 'x'", r"is not allowed in a condition"),
        ("seconds ** 99 > 1", r"is not allowed in a condition"),
        ("seconds > 99999999999999999999", r"is too large"),
        ("seconds < " + "-" * 60 + "1", r"--where is nested more than 50 deep"),
        ("a" * 10_001, r"--where has 10001 characters, more than 10000"),
        ("text.__class__ == 1", r"there is no column text.__class__"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        for clause in parse_condition(text):
            evaluate(clause, {name: values[:0] for name, values in COLUMNS.items()})
    assert "\n" not in str(raised.value)
