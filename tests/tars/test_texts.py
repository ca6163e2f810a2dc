import gzip

import pytest

from whisper_shard.errors import ManifestError
from whisper_shard.tars import texts
from whisper_shard.tars.texts import as_seconds, read_json_lines, stem_of


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_lines_plain_and_compressed(tmp_path, compress):
    path = tmp_path / "lines"
    path.write_bytes(compress(b'{"a": 1}\n\n  \n{"b": "\xc3\xa9"}'))
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (4, {"b": "\u00e9"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"lines: line 2 is not JSON \(Expecting value"),
        (b"[1]\n", r"lines: line 1 is not a JSON object but list"),
        (b"[" * 90_000, r"lines: line 1 is not JSON"),
        (b'{"a": "' + b"x" * 400_000, r"lines: line 1 has more than 100000 bytes; is this a file of JSON lines\?"),
        (gzip.compress(b'{"a": "' + b" " * 10_000_000, mtime=0), r"lines: line 1 has more than 100000 bytes"),
        (gzip.compress(b'{"a": 1}\n', mtime=0)[:-5], r"lines: cannot be read: Compressed file ended"),
        (b"\x1f\x8b\x08nonsense", r"lines: cannot be read: "),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(texts, "MAX_LINE_BYTES", 100_000)
    path = tmp_path / "lines"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        list(read_json_lines(path))


def test_stems():
    assert [stem_of(name) for name in ("a.b.wav", "x.y/a", "x/.wav", "a.")] == ["a.b", "x.y/a", "x/", "a."]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1", None, [1]])
def test_what_is_no_number_of_seconds(value):
    assert as_seconds(value) is None
    assert as_seconds(2) == 2.0
