import pytest

from tests.manifests.published import make_voxpopuli
from tests.manifests.reading import read_all, read_rows, write
from whisper_shard.errors import ManifestError


def test_training_is_read_and_the_rest_is_named(tmp_path):
    corpus = make_voxpopuli(tmp_path / "en")
    manifest, rows, rejections = read_all(corpus)
    assert (manifest.format, rejections) == ("voxpopuli", [])
    assert [(row.transcript, row.speaker) for row in rows] == [
        (f"mr president number {i}", f"12539{i}") for i in range(3)
    ]
    assert rows[0].source == "2018/20180613-0900-PLENARY-4-en_20180613-15:01:20_train.ogg"
    assert rows[0].extra["raw_text"] == "Mr President, number 0."
    assert rows[0].extra["gender"] == "male"
    assert manifest.notes == (
        "en is laid out as VoxPopuli: asr_train.tsv, recordings .ogg, transcripts from 'normalized_text'; "
        "for those with capitals and punctuation: --text-column raw_text",
        f"asr_dev.tsv is not read; to evaluate on it: --eval-corpus {corpus}/asr_dev.tsv",
        f"asr_test.tsv is not read; to evaluate on it: --eval-corpus {corpus}/asr_test.tsv",
    )


def test_one_list_and_the_other_column(tmp_path):
    (row,) = read_rows(make_voxpopuli(tmp_path) / "asr_dev.tsv", text_column="raw_text")
    assert (row.transcript, row.path) == (
        "Mr President, number 0.",
        f"{tmp_path}/2018/20180613-0900-PLENARY-4-en_20180613-15:01:20_dev.ogg",
    )


def test_lines_that_cannot_be_rows(tmp_path):
    corpus = make_voxpopuli(tmp_path)
    with (corpus / "asr_train.tsv").open("a") as file:
        file.write("2018x\tonly\n")
    _, rows, rejections = read_all(corpus)
    assert len(rows) == 4
    assert [(r.row, r.reason, r.detail) for r in rejections] == [(3, "malformed_row", "2 fields, the header has 8")]
    with pytest.raises(ManifestError, match=r"asr_train.tsv: has no columns id and said; it has: id, raw_text"):
        read_rows(corpus, text_column="said")
    write(tmp_path / "other/asr_train.tsv", "path\tsentence\na.wav\tHello\n")
    assert read_all(tmp_path / "other/asr_train.tsv")[0].format == "csv"
