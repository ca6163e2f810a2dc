"""Subtitles that other tools ship with their own tests; see fixtures/README.md."""

import shutil
from pathlib import Path

import pytest

from tests.manifests.reading import read_rows
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.cues import read_cues

FIXTURES = Path(__file__).parent / "fixtures"
GRIDS = "praatio/tests/files"


def read(name, **settings):
    return read_cues(FIXTURES / name, PrepareConfig(**settings)).cues


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("captions_with_bom.vtt", [f"Caption text #{n}" for n in range(1, 5)]),
        (
            "comments.vtt",
            ["Ta en kopp varmt te. Det är inte varmt.", "Har en kopp te. Det smakar som te.", "Ta en kopp"],
        ),
        ("metadata_headers_multiline.vtt", ["Caption text #1", "Caption text #2"]),
        ("missing_caption_text.srt", ["Caption text #1", "", "Caption text #3", "Caption text #4", "Caption text #5"]),
        ("regions.vtt", ["Hi, my name is Fred", "Hi, I\u2019m Bill"]),
        ("sample.srt", [f"Caption text #{n}" for n in range(1, 6)]),
        ("sample.vtt", [f"Caption text #{n}" for n in range(1, 17)]),
        ("styles_with_comments.vtt", ["Hello world."]),
        ("using_identifiers.vtt", [f"Caption text #{n}" for n in range(1, 7)]),
    ],
)
def test_texts_of_webvtt_py(name, expected):
    cues = read(f"webvtt-py/{name}")
    assert [cue.text for cue in cues] == expected
    assert [cue.fault for cue in cues] == [""] * len(expected)


def test_times_without_leading_zeros():
    first, second, _ = read("webvtt-py/non_padded_timestamps.vtt")
    assert (first.start_seconds, first.end_seconds, second.end_seconds) == (0.0, 3.54, 7.23)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("invalid_timeframe.srt", "line 6 is not two times: '00:00:07,000 --> 00:00:11:890'"),
        ("invalid_timeframe.vtt", "line 6 is not two times: '00:00:07.000 --> 00:00:1d.890'"),
        ("missing_timeframe.srt", "line 5 is the number of a cue, but no times follow"),
    ],
)
def test_a_cue_with_bad_times_costs_no_other_cue(name, fault):
    cues = read(f"webvtt-py/{name}")
    assert [cue.fault for cue in cues if cue.fault] == [fault]
    assert [cue.text for cue in cues] == [f"Caption text #{n}" for n in range(1, len(cues) + 1)]


def test_times_end_a_cue_without_an_empty_line():
    cues = read("webvtt-py/youtube_dl.vtt")
    assert [cue.text for cue in cues] == ["yeah", "what", "this will happen is I'm telling"]
    cues = read("webvtt-py/invalid_timeframe_in_cue_text.vtt")
    assert not [cue.text for cue in cues if "-->" in cue.text]


def test_srt_in_two_encodings():
    assert [cue.text for cue in read("srt/ascii.srt")] == ["ascii", "oh look", "ascii everywhere"]
    with pytest.raises(ManifestError, match=r"gb2312\.srt: is not UTF-8 .*name its encoding"):
        read("srt/gb2312.srt")
    first, *_ = read("srt/gb2312.srt", encoding="gb2312")
    assert first.text == "\u5b87\u5b99\u5b88\u62a4\u795e \u4fdd\u62a4\u6211\u4eec\u8fdc\u79bb\u90aa\u6076"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mary_longfile.TextGrid", "mary rolled the barrel"),
        ("mary_longfile_with_negative_zero.TextGrid", "mary rolled the barrel"),
        ("bobby_words_with_newlines.TextGrid", "BOBBY RIPPED THE LEDGER"),
        ("bobby_words_with_newlines_longfile_elan.TextGrid", "BOBBY RIPPED THE LEDGER"),
    ],
)
def test_tiers_of_praatio(name, text):
    assert [cue.text for cue in read(f"{GRIDS}/{name}")] == [text]


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("all_tiers_have_the_same_name", "", "has 3 tiers called 'Mary'; give each a name of its own"),
        ("all_tiers_have_the_same_name", "Mary", "has 3 tiers called 'Mary'"),
        ("textgrid_to_merge", "", "which tier is the transcript.*'bob', 'mary', 'sarah'"),
        ("bobby_phones_elan", "", "which tier is the transcript; name one with --text-column: 'phone'"),
    ],
)
def test_tiers_that_are_not_clear(name, wanted, message):
    with pytest.raises(ManifestError, match=message):
        read(f"{GRIDS}/{name}.TextGrid", text_column=wanted)


def test_ctm_of_lhotse_counts_channels_from_0(tmp_path):
    shutil.copy(FIXTURES / "lhotse/mono_c0.wav", tmp_path / "recording-1.wav")
    lines = (FIXTURES / "lhotse/supervision.ctm").read_text()
    (tmp_path / "all.ctm").write_text(lines + lines.replace("recording-1 0", "recording-1 1"))
    rows = [(row.source, row.channel, row.start_seconds, row.end_seconds) for row in read_rows(tmp_path)]
    assert rows == [("recording-1.wav", 0, 0.1, pytest.approx(0.4)), ("recording-1.wav", 1, 0.1, pytest.approx(0.4))]
