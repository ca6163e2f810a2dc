import pyarrow as pa
import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.prepare.manifests import formats
from whisper_shard.prepare.manifests.rows import MANIFEST_SCHEMA, as_rows


class OneRow:
    """Files that begin with ``ONE``: a single recording, whose transcript is in the column asked for."""

    def recognizes(self, path, head, /):
        return head.startswith(b"ONE") and path.suffix == ".one"

    def read(self, path, head, /, *, audio_column, text_column):
        row = {"row": 0, "source": "a.wav", "transcript": f"{audio_column} {text_column}"}
        return iter([pa.Table.from_pylist([row], schema=MANIFEST_SCHEMA)])


def test_format_is_recognized_by_name_and_content_and_else_it_is_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", {"one": OneRow(), **formats.FORMATS})
    (tmp_path / "c.one").write_text("ONE")
    (tmp_path / "d.one").write_text("audio,text\nb.wav,two\n")
    (table,) = formats.read_manifest(tmp_path / "c.one", PrepareConfig(audio_column="left", text_column="right"))
    ((row, rejection),) = as_rows(table, folder=tmp_path)
    assert (row.path, row.transcript, rejection) == (f"{tmp_path}/a.wav", "left right", None)
    (table,) = formats.read_manifest(tmp_path / "d.one", PrepareConfig())
    assert table.column("transcript").to_pylist() == ["two"]


def test_header_is_checked_before_the_first_row_is_read(tmp_path):
    (tmp_path / "c.csv").write_text("a,b\n")
    with pytest.raises(ManifestError, match=r"c.csv: no column for the audio path"):
        formats.read_manifest(tmp_path / "c.csv", PrepareConfig())
