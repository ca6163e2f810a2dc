"""Subtitles of every kind, and what is odd in them."""

import time

import pytest

from tests.manifests.reading import write
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.cues import clean_line, read_cues


def cues_of(path, content, **settings):
    cues = read_cues(write(path, content), PrepareConfig(**settings)).cues
    return [(cue.start_seconds, cue.end_seconds, cue.text) for cue in cues]


SRT = "1\n00:00:01,000 --> 00:00:02,500\n- Hello,\n<i>there</i>\n\n2\n00:01:00,00 --> 01:00:00,5\nTwo\n\nmore\n"
EXPECTED = [(1.0, 2.5, "Hello, there"), (60.0, 3600.5, "Two more")]


@pytest.mark.parametrize(
    "content",
    [
        SRT.encode(),
        SRT.encode("utf-8-sig"),
        SRT.encode("utf-16"),
        SRT.replace("\n", "\r\n").encode(),
        SRT.replace("\n", "\r").encode(),
        SRT.replace("there</i>\n\n2", "there</i>\n2").encode(),
    ],
    ids=["utf8", "bom", "utf16", "crlf", "cr", "no-empty-line"],
)
def test_srt(tmp_path, content):
    assert cues_of(tmp_path / "a.srt", content) == EXPECTED


def test_latin1_is_read_with_a_note(tmp_path):
    path = write(tmp_path / "a.srt", "1\n00:00:01,000 --> 00:00:02,000\nd\xe9j\xe0 vu\n".encode("latin-1"))
    found = read_cues(path, PrepareConfig())
    assert found.cues[0].text == "d\xe9j\xe0 vu"
    assert "Windows-1252" in found.note


def test_vtt_leaves_out_what_is_no_cue(tmp_path):
    text = (
        "WEBVTT - A title\n\nSTYLE\n::cue { color: red }\n\nNOTE nobody says this\n\nintro\n"
        "00:01.000 --> 00:02.000 align:start position:0%\n<v Ann>Fish &amp; chips\n\n\n"
        "00:00:03.000 --> 00:00:04.000\n\n"
    )
    assert cues_of(tmp_path / "a.vtt", text) == [(1.0, 2.0, "Fish & chips"), (3.0, 4.0, "")]


def test_rolling_captions_are_said_once(tmp_path):
    text = (
        "WEBVTT\n\n00:00.000 --> 00:02.000\n \nhello<00:00:01.000><c> there</c>\n\n"
        "00:02.000 --> 00:02.010\nhello there\n \n\n"
        "00:02.010 --> 00:04.000\nhello there\nhow<00:00:03.000><c> are</c>\n"
    )
    assert cues_of(tmp_path / "a.vtt", text) == [(0.0, 2.0, "hello there"), (2.01, 4.0, "how are")]


@pytest.mark.parametrize(
    ("line", "spoken"),
    [
        ("{\\an8}<font color='red'>Up &lt;here&gt;&nbsp;now</font>", "Up <here> now"),
        ("[DOOR SLAMS] Who is it? [quietly]", "Who is it?"),
        (">> BOB: Yes", "BOB: Yes"),
        ("- No", "No"),
        ("-5 degrees", "-5 degrees"),
        ("\u266a La la \u266a", "La la"),
        ("a < b > c", "a < b > c"),
        ("line\\Nbreak", "line break"),
    ],
)
def test_what_is_said_in_a_line(line, spoken):
    assert clean_line(line) == spoken


LONG_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 4.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 4.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1
            text = "say ""aa"" 3"
        intervals [3]:
            xmin = 1
            xmax = 2.25
            text = "now"
        intervals [4]:
            xmin = 3
            xmax = 4.5
            text = "later"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 4.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 4.5
            text = "aa"
    item [3]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 4.5
        points: size = 1
        points [1]:
            number = 2
            mark = "ding"
"""
SHORT_GRID = '"ooTextFile"\n"TextGrid"\n0\n4\n<exists>\n2\n' + "".join(
    f'"IntervalTier"\n"{name}"\n0\n4\n1\n0\n4\n"{name} speaks"\n' for name in ("ann", "bob")
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrid_in_long_form(tmp_path, encoding):
    found = cues_of(tmp_path / "a.TextGrid", LONG_GRID.encode(encoding))
    assert found == [(0.5, 2.25, 'say "aa" 3 now'), (3.0, 4.5, "later")]


def test_textgrid_in_short_form_with_a_tier_that_is_named(tmp_path):
    assert cues_of(tmp_path / "a.TextGrid", SHORT_GRID, text_column="bob") == [(0.0, 4.0, "bob speaks")]


def test_ctm(tmp_path):
    lines = ";; made by hand\na 1 0.5 0.5 good 0.9\na 1 1.0 0.5 morning\na 1 1.5 0.2 <eps>\na 1 2.5 0.5 Ann\n"
    assert cues_of(tmp_path / "a.ctm", lines) == [(0.5, 1.5, "good morning"), (2.5, 3.0, "Ann")]


def test_long_phrases_are_divided_at_the_longest_pause(tmp_path):
    words = [(0.4 * i + (0.3 if i >= 20 else 0.0), f"w{i}") for i in range(40)]
    text = "".join(f"a 1 {start:.2f} 0.4 {word}\n" for start, word in words)
    found = cues_of(tmp_path / "a.ctm", text)
    assert [cue[2].split()[0] for cue in found] == ["w0", "w20"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "no times at all", "holds no cue, as SRT files"),
        ("a.vtt", b"\0\1\2" * 30, "is not a text file"),
        ("a.ctm", "a 1 zero 1 word", "line 1 is not recording, channel, start"),
        ("a.TextGrid", "ooBinaryFile", "is not a TextGrid in text form"),
        ("a.TextGrid", LONG_GRID[:600], "ends too early"),
        ("a.TextGrid", SHORT_GRID, "which tier is the transcript.*'ann', 'bob'"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\x81\x8d\xff\n", "encoding"),
    ],
)
def test_what_cannot_be_read_says_so(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ManifestError, match=message):
        read_cues(path, PrepareConfig())


def test_times_that_are_none_are_a_fault_of_their_cue(tmp_path):
    path = write(tmp_path / "a.srt", "1\n00:00:01,000 --> soon\nA\n\n2\n00:00:03,000 --> 00:00:04,000\nB\n")
    cues = read_cues(path, PrepareConfig()).cues
    assert [cue.fault for cue in cues] == ["line 2 is not two times: '00:00:01,000 --> soon'", ""]


@pytest.mark.parametrize("unit", ["<a", "[", "{\\a", "word ", "--> ", "\u266a", "- "], ids=range(7))
def test_a_line_of_megabytes_takes_linear_time(tmp_path, unit):
    path = write(tmp_path / "a.srt", "1\n00:00:01,000 --> 00:00:02,000\n" + unit * (1_000_000 // len(unit)) + "\n")
    began = time.process_time()
    assert read_cues(path, PrepareConfig()).cues
    assert time.process_time() - began < 2
