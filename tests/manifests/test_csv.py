import csv
import gzip
import tracemalloc

import pytest

from tests.manifests.reading import notes_of, read_all, read_rows, touch, write
from whisper_shard.config.prepare import PrepareConfig
from whisper_shard.errors import ManifestError
from whisper_shard.manifests.csv import find_layout, read_batches
from whisper_shard.manifests.encoding import read_head
from whisper_shard.manifests.paths import PathFinder
from whisper_shard.manifests.rows import MANIFEST_SCHEMA


def layout_of(path, **settings):
    layout, _ = find_layout(path, read_head(path), PrepareConfig(**settings))
    return layout


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
    _, rows, rejections = read_all(path)
    assert [row.row for row in rows] == [0, 1, 2, 3]
    assert [(r.row, r.reason, r.detail) for r in rejections] == [
        (0, "malformed_row", "3 fields, there are 2 columns; quote the text?"),
        (1, "missing_path", "nothing in column audios"),
        (2, "malformed_row", "1 field, there are 2 columns"),
    ]


def test_batches_are_in_the_schema_and_number_the_rows(tmp_path):
    with (tmp_path / "c.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audios", "transcription"), *((f"{i}.wav", f"text {i}") for i in range(10))])
    layout = layout_of(tmp_path / "c.csv")
    tables = list(read_batches(tmp_path / "c.csv", layout, PathFinder(tmp_path), batch_rows=4))
    assert [len(table) for table in tables] == [4, 4, 2]
    assert all(table.schema == MANIFEST_SCHEMA for table in tables)
    assert tables[2].column("row").to_pylist() == [8, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wave,words\n1,2\n", r"c.csv: no column for the audio path .* nor for the transcript .*; it has: wave, words"),
        ("audios,words\na.wav,1\n", r"no column for the transcript \(--text-column; .*; it has: audios, words"),
        (
            "Hello\nyou\n",
            r"no column for the audio path and the transcript: the first line has no field .* with 'Hello'",
        ),
        (
            "audio,said,meant\na.wav,a b,c d\n",
            r"'said', 'meant' could all be the transcript; say which: --text-column '",
        ),
        (
            "one,two,text\na.wav,b.wav,c d\n",
            r"'one', 'two' could all be the audio path; say which: --audio-column 'one'",
        ),
        ("", r"is empty or begins with an empty line"),
        (b"PK\x03\x04\x00\x00rest", r"is not CSV but a zip archive or an Excel workbook; unpack it, or save the sheet"),
        (b"\x7fELF\x00\x00rest", r"is not a text file: byte 4 is zero, and it begins with b'.x7fELF"),
        (
            "audios,text\na.wav,\u041f\u0440\u0438\u0432\u0435\u0442\n".encode("cp1251"),
            r"is not UTF-8 \(byte 18\), nor .*--enc",
        ),
        (
            "audios,text\na.wav,\u4f60\u597d\u4f60\u597d\n".encode("gbk"),
            r"is not UTF-8 \(byte 18\), nor .* --encoding cp1251, gbk",
        ),
        (
            "audios,text\na.wav,\u017c\u00f3\u0142w i g\u0119\u015bl\n".encode("cp1250"),
            r"is not UTF-8 \(byte 18\), nor .* cp1250",
        ),
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
    assert layout_of(both).columns.text == "text"
    assert layout_of(both, text_column="Text").columns.text == "Text"
    with pytest.raises(
        ManifestError, match=r"no column for the transcript \(--text-column TEXT\); it has: audio, text, T"
    ):
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
    with pytest.raises(ManifestError, match=r"row 0: a quote opens at line 2 and closes 1 line later"):
        list(read_rows(path))


def test_texts_may_go_on_over_lines_with_the_delimiter_in_them(tmp_path):
    path = write(tmp_path / "c.csv", 'audios,transcription\na.wav,"Hello, you.\nHow are you, friend?"\nb.wav,Fine\n')
    assert [row.transcript for row in read_rows(path)] == ["Hello, you.\nHow are you, friend?", "Fine"]
    path = write(tmp_path / "d.csv", 'audios,transcription\nclips/1,"Hello, you.\nand/or, yes"\nclips/2,"a\nb, 12"\n')
    assert [row.transcript for row in read_rows(path)] == ["Hello, you.\nand/or, yes", "a\nb, 12"]


def test_missing_manifest_and_folder(tmp_path):
    with pytest.raises(ManifestError, match=r"none.csv: no such file; give the path of the corpus"):
        list(read_rows(tmp_path / "none.csv"))
    write(tmp_path / "corpus.csv", "audios,transcription\n")
    with pytest.raises(ManifestError, match=r"is a folder in no layout that is known; did you mean .*corpus.csv\?"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin1"]
)
def test_encodings_are_recognized(tmp_path, encoding):
    lines = [
        "audios,transcription",
        *(f"{i}.wav,Gr\u00fc\u00dfe aus K\u00f6ln und S\u00e3o Paulo {i}" for i in range(50)),
    ]
    path = write(tmp_path / "c.csv", "\r\n".join(lines).encode(encoding))
    rows = read_rows(path)
    assert [row.transcript for row in rows] == [line.split(",")[1] for line in lines[1:]]
    noted = [note for note in notes_of(path) if "not UTF-8" in note]
    assert len(noted) == (not encoding.startswith("utf-8"))
    assert any(" is CSV in " in note for note in notes_of(path))


def test_an_encoding_is_believed(tmp_path):
    path = write(tmp_path / "c.csv", "audios,text\na.wav,\u041f\u0440\u0438\u0432\u0435\u0442\n".encode("cp1251"))
    assert [row.transcript for row in read_rows(path, encoding="cp1251")] == ["\u041f\u0440\u0438\u0432\u0435\u0442"]
    with pytest.raises(ManifestError, match=r"--encoding cp125l: no such encoding; try utf-8"):
        read_rows(path, encoding="cp125l")
    with pytest.raises(
        ManifestError, match=r"c.csv: a line after row 0 is not in the encoding ascii; name the right one"
    ):
        read_rows(path, encoding="ascii")


@pytest.mark.slow
def test_a_byte_that_is_not_utf_8_is_found_behind_the_first_megabyte(tmp_path):
    lines = ["audios,text", *(f"{i}.wav,plain words" for i in range(70_000)), "z.wav,caf\u00e9"]
    path = write(tmp_path / "c.csv", "\n".join(lines).encode("cp1252"))
    assert read_rows(path)[-1].transcript == "caf\u00e9"


def test_compressed_csv(tmp_path):
    path = write(tmp_path / "c.csv.gz", gzip.compress(b"audios,transcription\na.wav,Hello\n"))
    assert [row.transcript for row in read_rows(path)] == ["Hello"]
    write(path, path.read_bytes()[:-12])
    with pytest.raises(ManifestError, match=r"c.csv.gz: cannot be read"):
        read_rows(path)


def test_columns_of_any_name_are_told_by_what_is_in_them(tmp_path):
    path = write(tmp_path / "c.csv", "who,clip,said\nAnn,1.mp3,Good morning\nBob,2.mp3,Good night\n")
    assert [(row.source, row.transcript, row.extra) for row in read_rows(path)] == [
        ("1.mp3", "Good morning", {"who": "Ann"}),
        ("2.mp3", "Good night", {"who": "Bob"}),
    ]
    assert notes_of(path) == [
        "c.csv is CSV in UTF-8, separated by commas, with a header: audio paths from 'clip', transcripts from 'said'; "
        "carried along: 'who'"
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_a_missing_header_is_noticed(tmp_path, delimiter):
    path = write(tmp_path / "c.txt", f"a.wav{delimiter}Hello you\nb.wav{delimiter}Good night\n")
    assert [(row.row, row.source, row.transcript) for row in read_rows(path)] == [
        (0, "a.wav", "Hello you"),
        (1, "b.wav", "Good night"),
    ]
    (note,) = notes_of(path)
    assert "without a header (its columns are counted from 1): audio paths from '1', transcripts from '2'" in note


def test_columns_without_a_header_can_be_numbered(tmp_path):
    path = write(tmp_path / "c.csv", "a.wav,Hello you,Bonjour toi\n")
    (row,) = read_rows(path, text_column="3")
    assert (row.transcript, row.extra) == ("Bonjour toi", {"2": "Hello you"})


def test_files_without_suffix_show_that_the_header_is_missing(tmp_path):
    touch(tmp_path, "utt1.wav", "utt2.wav")
    path = write(tmp_path / "c.csv", "utt1.wav,Hello\nutt2.wav,Hallo\n")
    assert [row.row for row in read_rows(path)] == [0, 1]


def test_excel_names_its_separator(tmp_path):
    path = write(tmp_path / "c.csv", "sep=;\r\naudios;transcription\r\na.wav;1,5 apples\r\n")
    (row,) = read_rows(path)
    assert (row.row, row.transcript) == (0, "1,5 apples")


def test_a_header_may_end_with_a_separator(tmp_path):
    (row,) = read_rows(write(tmp_path / "c.csv", "audios,transcription,\na.wav,Hello,\n"))
    assert row.extra == {"column_3": ""}


def test_of_two_columns_that_fit_the_note_names_both(tmp_path):
    path = write(tmp_path / "c.csv", "audio,path,text,sentence\na.wav,b.wav,one,two\n")
    (row,) = read_rows(path)
    assert (row.source, row.transcript, row.extra) == ("a.wav", "one", {"path": "b.wav", "sentence": "two"})
    assert notes_of(path)[1:] == [
        "column 'audio' is taken for the audio path, though 'path' would fit as well; --audio-column names another",
        "column 'text' is taken for the transcript, though 'sentence' would fit as well; --text-column names another",
    ]


def test_segments_and_channels_are_obeyed(tmp_path):
    lines = (
        "audio,text,start,end,channel\na.wav,one,1.5,0:04.25,left\na.wav,two,,,\na.wav,three,3,,1\na.wav,four,,2,mix\n"
    )
    rows = read_rows(write(tmp_path / "c.csv", lines))
    assert [(row.start_seconds, row.end_seconds, row.channel) for row in rows] == [
        (1.5, 4.25, 0),
        (None, None, None),
        (3.0, None, 1),
        (0.0, 2.0, None),
    ]
    assert [row.is_segment for row in rows] == [True, False, True, True]
    assert all(row.extra == {} for row in rows)


def test_milliseconds_are_known_by_their_name(tmp_path):
    (row,) = read_rows(write(tmp_path / "c.csv", "audio,text,start_ms,end_ms\na.wav,one,1500,2750\n"))
    assert (row.start_seconds, row.end_seconds) == (1.5, 2.75)


def test_a_duration_alone_is_that_of_the_recording_and_stays_a_column(tmp_path):
    (row,) = read_rows(write(tmp_path / "c.csv", "audio,text,duration\na.wav,one,2.5\n"))
    assert (row.duration_seconds, row.is_segment, row.extra) == (2.5, False, {"duration": "2.5"})


def test_times_that_make_no_sense_are_rejected_and_can_be_ignored(tmp_path):
    lines = ["audio,text,start,end,duration,channel", "a.wav,t,noon,,,", "a.wav,t,3,2,,", "a.wav,t,1,3,9,"]
    lines += ["a.wav,t,-1,2,,", "a.wav,t,1,nan,,", "a.wav,t,1,2,,centre", "a.wav,t,1,2,1,0"]
    path = write(tmp_path / "c.csv", "\n".join(lines) + "\n")
    _, rows, rejections = read_all(path)
    assert len(rows) == 7
    assert [(r.row, r.reason, r.detail) for r in rejections] == [
        (0, "malformed_row", "start is 'noon'; it must be seconds (--ignore-columns start carries it along)"),
        (1, "malformed_row", "it ends at 2 s, but begins at 3 s"),
        (2, "malformed_row", "from 1 s to 3 s is not 9 s"),
        (3, "malformed_row", "start is '-1'; it must be seconds (--ignore-columns start carries it along)"),
        (4, "malformed_row", "end is 'nan'; it must be seconds (--ignore-columns end carries it along)"),
        (5, "malformed_row", "channel is 'centre'; it must be a number from 0, left, right or mix"),
    ]
    ignored = read_rows(path, ignore_columns=("start", "end", "duration", "channel"))
    assert [row.is_segment for row in ignored] == [False] * 7
    assert ignored[0].extra == {"start": "noon", "end": "", "duration": "", "channel": ""}


@pytest.mark.long
def test_ten_thousand_rows_need_the_memory_of_a_batch(tmp_path):
    path = tmp_path / "c.csv"
    write(path, "audios,transcription\n" + "".join(f"audios/{i}.wav,utterance number {i}\n" for i in range(300_000)))
    peaks = []
    for batch_rows in (5_000, 50_000):
        tracemalloc.start()
        num_rows = sum(map(len, read_batches(path, layout_of(path), PathFinder(tmp_path), batch_rows=batch_rows)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert num_rows == 300_000
    assert peaks[0] < 8e6 and peaks[1] < 60e6


def test_a_folder_is_not_looked_up_with_a_suffix(tmp_path):
    touch(tmp_path, "clips/a.wav")
    write(tmp_path / "list.csv", "path,text\nclips,hello there\nclips/a,hello\n")
    first, second = read_rows(tmp_path / "list.csv")
    assert (first.path, second.path) == (f"{tmp_path}/clips", f"{tmp_path}/clips/a.wav")


def test_a_decimal_comma_is_named(tmp_path):
    touch(tmp_path, "a.wav")
    write(tmp_path / "list.csv", "path;start;text\na.wav;0,5;hello there\n")
    (rejection,) = read_all(tmp_path / "list.csv")[2]
    assert (
        rejection.detail == "start is '0,5'; it must be seconds, with a point (--ignore-columns start carries it along)"
    )


def test_a_byte_order_mark_is_not_told_of(tmp_path):
    touch(tmp_path, "a.wav")
    write(tmp_path / "list.csv", "\ufeffpath,text\na.wav,hello there\n")
    assert notes_of(tmp_path / "list.csv")[0].startswith("list.csv is CSV in UTF-8, separated by commas")


def test_accents_that_may_be_of_any_alphabet_are_not_guessed(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "list.csv").write_bytes(
        "path,text\na.wav,\u00e4\u00f6\u00fc\u00e4\u00f6\u00fc \u00e4\u00f6\u00fc\n".encode("cp1252")
    )
    with pytest.raises(ManifestError, match=r"nor clearly in a Western European encoding; .* cp1250, cp1252"):
        layout_of(tmp_path / "list.csv")
