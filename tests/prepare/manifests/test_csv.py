import csv

import pytest

from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.prepare.manifests.csv import find_layout, read_batches
from whisper_shard.prepare.manifests.formats import read_manifest
from whisper_shard.prepare.manifests.rows import MANIFEST_SCHEMA, as_rows


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def layout_of(path, **columns):
    return find_layout(path, path.read_bytes(), **columns)


def read_rows(path, **columns):
    """Yield every valid row."""
    for table in read_manifest(path, PrepareConfig(**columns)):
        yield from (row for row, rejection in as_rows(table, folder=path.parent) if rejection is None)


def test_rows_have_paths_relative_to_the_manifest(tmp_path):
    path = write(tmp_path / "c.csv", "audios,transcription\nan/a.wav,Hello\n/b/c.wav,World\n")
    first, second = read_rows(path)
    assert (first.row, first.source, first.path, first.transcript) == (0, "an/a.wav", f"{tmp_path}/an/a.wav", "Hello")
    assert (second.row, second.path, second.language, dict(second.extra)) == (1, "/b/c.wav", None, {})


@pytest.mark.parametrize("header", ["audio,text", "path,sentence", "wav,transcript", " audios , transcription "])
def test_usual_column_names_are_known(tmp_path, header):
    (row,) = read_rows(write(tmp_path / "c.csv", f"{header}\na.wav,Hello\n"))
    assert (row.source, row.transcript) == ("a.wav", "Hello")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiter_is_found_out(tmp_path, delimiter):
    path = write(tmp_path / "c.csv", delimiter.join(["audios", "transcription"]) + f"\na.wav{delimiter}Hello\n")
    assert [row.transcript for row in read_rows(path)] == ["Hello"]


def test_named_columns_win_and_others_are_carried_along(tmp_path):
    path = write(tmp_path / "c.csv", "id,audios,said,transcription,language,speaker,task\n7,a.wav,Yes,No,de,Ann,\n")
    (row,) = read_rows(path, text_column="said")
    assert (row.transcript, row.language, row.speaker, row.task) == ("Yes", "de", "Ann", None)
    assert dict(row.extra) == {"id": "7", "transcription": "No"}


def test_byte_order_mark_quotes_and_line_ends(tmp_path):
    text = '\ufeffaudios,transcription\r\na.wav,"Hello, ""you""\r\nthere"\r\n\r\n"new\nline.wav",Gr\u00fc\u00dfe\r\n'
    rows = list(read_rows(write(tmp_path / "c.csv", text)))
    assert [(row.row, row.source, row.transcript) for row in rows] == [
        (0, "a.wav", 'Hello, "you"\r\nthere'),
        (1, "new\nline.wav", "Gr\u00fc\u00dfe"),
    ]


def test_lines_that_cannot_be_rows_keep_their_number_and_say_why(tmp_path):
    path = write(tmp_path / "c.csv", "audios,transcription\na.wav,Hello, you\n,Hello\na.wav\nb.wav,Fine\n")
    (table,) = read_batches(path, layout_of(path))
    rows, rejections = zip(*as_rows(table, folder=tmp_path), strict=True)
    assert [row.row for row in rows] == [0, 1, 2, 3]
    assert [(r.row, r.reason, r.detail) for r in rejections if r is not None] == [
        (0, "malformed_row", "3 fields, the header has 2; quote the text?"),
        (1, "missing_path", "nothing in column audios"),
        (2, "malformed_row", "1 fields, the header has 2; quote the text?"),
    ]


def test_batches_are_in_the_schema_and_number_the_rows(tmp_path):
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audios", "transcription"), *((f"{i}.wav", f"text {i}") for i in range(10))])
    tables = list(read_batches(tmp_path / "c.csv", layout_of(tmp_path / "c.csv"), batch_rows=4))
    assert [len(table) for table in tables] == [4, 4, 2]
    assert all(table.schema == MANIFEST_SCHEMA for table in tables)
    assert tables[2].column("row").to_pylist() == [8, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wave,words\na.wav,Hello\n", r"c.csv: no column for the audio path .* nor for the transcript .*: wave, words"),
        (
            "audios,words\na.wav,Hello\n",
            r"no column for the transcript \(--text-column; .*header has: audios, words",
        ),
        ("", r"is empty or begins with an empty line"),
        (b"PK\x03\x04\x00\x00rest", r"is not a CSV text file: byte 4 is zero, and it begins with b'PK"),
        (b"PAR1\x15\x04", r"c.csv: is Parquet, not CSV; convert it: python -c .*read_parquet.*to_csv.*c.csv"),
        ('{"audio": "a.wav", "text": "b"}\n', r"c.csv: is JSON, not CSV; convert it: .*read_json.*lines=True\).to_csv"),
        ('[{"audio": "a.wav"}]', r"c.csv: is JSON, not CSV; convert it: .*read_json.*lines=False\).to_csv"),
        (
            "audios,transcription\na.wav,Gr\xfc\xdfe\n".encode("latin1"),
            r"is not UTF-8; .* -f LATIN1 -t UTF-8 c.csv > c-u",
        ),
        ("audios,transcription\n\u00e4\n".encode("utf-16"), r"c.csv: the header is not UTF-8; .*iconv -f UTF-16 -t"),
        ('audios,transcription\na.wav,"open' + "x" * 140_000, r"row 0 \(line 2\): .*does a quote open there"),
        ("audios,transcription,audios\na,b,c\n", r"two columns have the same name: audios, transcription, audios"),
    ],
)
def test_unusable_manifests_say_what_is_wrong(tmp_path, content, message):
    with pytest.raises(ManifestError, match=message):
        list(read_rows(write(tmp_path / "c.csv", content)))


def test_known_columns_may_have_capitals(tmp_path):
    (row,) = read_rows(write(tmp_path / "c.csv", "Audio,Text,Language,Age\na.wav,Hello,de,40\n"))
    assert (row.source, row.transcript, row.language, row.extra) == ("a.wav", "Hello", "de", {"Age": "40"})
    both = write(tmp_path / "d.csv", "audio,text,Text\na.wav,low,high\n")
    assert layout_of(both).text_column == "text"
    assert layout_of(both, text_column="Text").text_column == "Text"
    with pytest.raises(ManifestError, match=r"no column for the transcript \(--text-column TEXT\); the header has"):
        layout_of(both, text_column="TEXT")


STRAY_QUOTES = [("a.wav", '"Hello there'), ("b.wav", "world one"), ("c.wav", 'say "yes" now'), ("d.wav", "last")]


def test_quotes_between_tabs_are_letters(tmp_path):
    lines = ["\t".join(pair) for pair in [("audios", "transcription"), *STRAY_QUOTES]]
    rows = list(read_rows(write(tmp_path / "c.tsv", "\n".join(lines) + "\n")))
    assert [(row.source, row.transcript) for row in rows] == STRAY_QUOTES


def test_quotes_between_tabs_enclose_where_the_header_is_quoted(tmp_path):
    (row,) = read_rows(write(tmp_path / "c.tsv", '"audios"\t"transcription"\n"a.wav"\t"Hello\tyou"\n'))
    assert (row.source, row.transcript) == ("a.wav", "Hello\tyou")


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_stray_quote_loses_no_row_in_silence(tmp_path, delimiter, order):
    pairs = [("audios", "transcription"), ("z.wav", "first"), *STRAY_QUOTES]
    lines = [delimiter.join(pair[::order]) for pair in pairs]
    with pytest.raises(ManifestError, match=r"row 1: a quote opens at line 3 and closes \d lines later, .*close it or"):
        list(read_rows(write(tmp_path / "c.csv", "\n".join(lines) + "\n")))


@pytest.mark.parametrize("name", ["clips/{}", "speaker{}/take", "/data/a b/{}", "utt{}", "100{}"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_stray_quote_between_paths_without_suffix_loses_no_row_in_silence(tmp_path, name, order):
    texts = ["first", '"Hello there', "world one", 'say "yes" now', "last"]
    pairs = [("audios", "transcription"), *((name.format(i), text) for i, text in enumerate(texts))]
    path = write(tmp_path / "c.csv", "\n".join(",".join(pair[::order]) for pair in pairs) + "\n")
    with pytest.raises(ManifestError, match=r"row 1: a quote opens at line 3 and closes \d lines later, "):
        list(read_rows(path))


def test_a_stray_quote_in_front_of_the_path_loses_no_row(tmp_path):
    path = write(tmp_path / "c.csv", 'transcription,audios\n"Hello,a.wav\nsay yes",b.wav\n')
    with pytest.raises(ManifestError, match=r"row 0: a quote opens at line 2 and closes 1 lines later"):
        list(read_rows(path))


def test_texts_may_go_on_over_lines_with_the_delimiter_in_them(tmp_path):
    path = write(tmp_path / "c.csv", 'audios,transcription\na.wav,"Hello, you.\nHow are you, friend?"\nb.wav,Fine\n')
    assert [row.transcript for row in read_rows(path)] == ["Hello, you.\nHow are you, friend?", "Fine"]
    path = write(tmp_path / "d.csv", 'audios,transcription\nclips/1,"Hello, you.\nand/or, yes"\nclips/2,"a\nb, 12"\n')
    assert [row.transcript for row in read_rows(path)] == ["Hello, you.\nand/or, yes", "a\nb, 12"]


def test_missing_manifest_and_folder(tmp_path):
    with pytest.raises(ManifestError, match=r"none.csv: no such file; give the path of the corpus CSV"):
        list(read_rows(tmp_path / "none.csv"))
    write(tmp_path / "corpus.csv", "audios,transcription\n")
    with pytest.raises(ManifestError, match=r"is a folder, not a CSV file; did you mean .*corpus.csv\?"):
        list(read_rows(tmp_path))
