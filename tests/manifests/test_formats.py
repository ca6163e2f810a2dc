import pyarrow as pa
import pytest

from tests.manifests.reading import read_all, read_rows, write
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ConfigError, ManifestError
from whisper_shard.manifests import formats
from whisper_shard.manifests.manifest import Manifest
from whisper_shard.manifests.rows import MANIFEST_SCHEMA


class OneRow:
    """Files that begin with ``ONE``: a single recording, whose transcript is in the column asked for."""

    def recognizes(self, path, head, /):
        return head.startswith(b"ONE") and path.suffix == ".one"

    def open(self, path, head, config, /):
        row = {"row": 0, "source": "a.wav", "transcript": f"{config.audio_column} {config.text_column}"}
        table = pa.Table.from_pylist([row], schema=MANIFEST_SCHEMA)
        return Manifest(path=path, format="one", folder=path.parent, read=lambda: iter([table]), digest=lambda: "one")


def test_format_is_recognized_by_name_and_content_and_else_it_is_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FORMATS", {"one": OneRow(), **formats.FORMATS})
    write(tmp_path / "c.one", "ONE")
    write(tmp_path / "d.one", "audio,text\nb.wav,two\n")
    manifest, (row,), rejections = read_all(tmp_path / "c.one", audio_column="left", text_column="right")
    assert (manifest.format, row.path, row.transcript, rejections) == ("one", f"{tmp_path}/a.wav", "left right", [])
    manifest, (row,), _ = read_all(tmp_path / "d.one")
    assert (manifest.format, row.transcript) == ("csv", "two")


def test_format_can_be_named(tmp_path):
    path = write(tmp_path / "c.txt", "[audio],text\na.wav,one\n")
    with pytest.raises(ManifestError, match=r"c.txt: "):
        read_rows(path)  # it begins like a JSON array
    (row,) = read_rows(path, manifest_format="csv")
    assert (row.source, row.transcript) == ("a.wav", "one")
    with pytest.raises(ConfigError, match=r"--manifest-format cvs: must be one of .*, csv; did you mean 'csv'\?"):
        read_rows(path, manifest_format="cvs")
    write(path, '{"audio": "a.wav", "text": "b"}\n')
    with pytest.raises(ManifestError, match=r"c.txt: is JSON, not CSV; leave out --manifest-format"):
        read_rows(path, manifest_format="csv")
    write(path, b"PAR1\x15\x04")
    with pytest.raises(ManifestError, match=r"c.txt: is not CSV but Parquet; leave out --manifest-format"):
        read_rows(path, manifest_format="csv")


def test_header_is_checked_before_the_first_row_is_read(tmp_path):
    (tmp_path / "c.csv").write_text("a,b\n")
    with pytest.raises(ManifestError, match=r"c.csv: no column for the audio path"):
        formats.open_manifest(tmp_path / "c.csv", PrepareConfig())
