import pytest

from tests.manifests.published import make_ljspeech
from tests.manifests.reading import notes_of, read_all, read_rows, touch, write
from whisper_shard.errors import ManifestError


@pytest.mark.parametrize("name", ["", "metadata.csv"])
def test_normalized_transcripts_are_read(tmp_path, name):
    manifest, rows, rejections = read_all(make_ljspeech(tmp_path / "LJSpeech-1.1") / name)
    assert (manifest.format, rejections) == ("ljspeech", [])
    assert [(row.source, row.file, row.transcript) for row in rows[:2]] == [
        ("LJ001-0000.wav", "wavs/LJ001-0000.wav", 'Printing, in the "only" sense'),
        ("LJ001-0001.wav", "wavs/LJ001-0001.wav", "in being sixteen comparatively modern."),
    ]
    assert rows[1].extra == {"id": "LJ001-0001", "transcription": "in being 16 comparatively modern."}
    assert manifest.notes == (
        "metadata.csv is laid out as LJSpeech: recordings in wavs/, transcripts from 'normalized_transcription'; "
        "for those as printed: --text-column transcription",
    )


def test_transcripts_as_printed(tmp_path):
    rows = read_rows(make_ljspeech(tmp_path), text_column="transcription")
    assert rows[1].transcript == "in being 16 comparatively modern."


def test_two_columns_and_other_recordings(tmp_path):
    touch(tmp_path, "wavs/a.flac")
    write(tmp_path / "metadata.csv", 'a|"Hello" you\nb|one|two\nc\n')
    _, rows, rejections = read_all(tmp_path)
    assert [(row.source, row.transcript) for row in rows] == [
        ("a.flac", '"Hello" you'),
        ("b.flac", "one"),
        ("c.flac", ""),
    ]
    assert [(r.row, r.reason, r.detail) for r in rejections] == [
        (1, "malformed_row", "3 fields, the first line has 2"),
        (2, "malformed_row", "1 fields, the first line has 2"),
    ]


def test_a_table_with_a_header_is_a_table(tmp_path):
    touch(tmp_path, "wavs/a.wav")
    path = write(tmp_path / "metadata.csv", "file_name|text\na.wav|Hello\n")
    assert read_all(path)[0].format == "csv"
    assert [row.path for row in read_rows(path)] == [f"{tmp_path}/wavs/a.wav"]


def test_what_is_not_laid_out_like_it(tmp_path):
    with pytest.raises(ManifestError, match=r"holds no metadata.csv, as LJSpeech has it"):
        read_rows(tmp_path, manifest_format="ljspeech")
    touch(tmp_path, "wavs/a.wav")
    write(tmp_path / "metadata.csv", "a|one|two|three\n")
    with pytest.raises(
        ManifestError, match=r"its first line has 4 fields between bars; LJSpeech has id, transcription, "
    ):
        read_rows(tmp_path)
    with pytest.raises(ManifestError, match=r"\(--text-column said\)"):
        notes_of(make_ljspeech(tmp_path), text_column="said")
