"""Hypotheses of other systems: read from any of the formats, and nothing is dropped in silence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.making import make_dataset
from whisper_shard.errors import DatasetError, ManifestError
from whisper_shard.score.evaluation import EvaluatedUtterance
from whisper_shard.score.hypotheses import check_same_data, match_hypotheses, read_hypotheses


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("given") / "set", [0.5, 1.0, 1.5], text="one two")


def write(folder, name, content):
    path = folder / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = {
    "a.csv": 'key,text\na,"one, ""two"""\nb,\n',
    "a.tsv": 'key\ttext\na\tone, "two"\nb\t\n',
    "a.jsonl": '{"key": "a", "text": "one, \\"two\\""}\n\n{"key": "b", "text": null}\n',
    "a.json": '{"id": "a", "text": "no", "pred_text": "one, \\"two\\""}\n{"id": "b", "pred_text": ""}\n',
    "a.parquet": pa.table({"key": ["a", "b"], "hypothesis": ['one, "two"', None], "x": [1, 2]}),
}


@pytest.mark.parametrize("name", list(GOOD))
def test_each_format(tmp_path, name):
    found = read_hypotheses(write(tmp_path, name, GOOD[name]))
    assert found.texts == {"a": 'one, "two"', "b": ""}
    assert not found.is_by_source


def test_which_columns_were_taken_is_said(tmp_path):
    found = read_hypotheses(write(tmp_path, "a.csv", "audio_filepath,pred_text,text\nx.wav,one,no\n"))
    assert found.describe() == "1 text of column pred_text by audio_filepath" and found.is_by_source


def test_of_several_windows_the_first_is_taken(tmp_path):
    rows = {"window": ["short", "full"], "key": ["a", "a"], "hypothesis": ["s", "f"], "hit_cap": [True, False]}
    found = read_hypotheses(write(tmp_path, "a.parquet", pa.table(rows)))
    assert (found.texts, found.capped) == ({"a": "s"}, {"a"})
    assert found.describe() == "1 text of column hypothesis by key, rows of window 'short'"


BAD = [
    ("a.txt", "a one", r"a\.txt: hypotheses come as \.csv, .* it is none of these by its name"),
    ("a.csv", "", r"a\.csv: has no row"),
    ("a.csv", "key,text\n", r"a\.csv: has no row"),
    ("a.csv", "name,text\na,b\n", r"no column holds the key of an utterance: it has name, text; name one of them key"),
    ("a.csv", "key,words\na,b\n", r"no column holds its hypothesis: it has key, words; name one of them hypothesis"),
    ("a.csv", "key,text\na,b\nc,d,e\n", r"row 2 has 3 fields, the header 2: \['c', 'd', 'e'\]"),
    ("a.csv", "key,text\na,b\n ,d\n", r"row 2 has nothing in column key"),
    ("a.csv", "key,text\na,b\nc,d\na,e\n", r"key 'a' is there twice, in rows 1 and 3"),
    ("a.csv", b"key,text\na,\xff\n", r"a\.csv: cannot be read: .*utf-8"),
    ("a.csv", 'key,text\na,"b\n', r"a\.csv: cannot be read: unexpected end of data"),
    ("a.jsonl", "{", r"line 1 is not JSON"),
    ("a.jsonl", "[1]\n", r"line 1 is no object but '\[1\]'"),
    ("a.parquet", "PAR1", r"a\.parquet: cannot be read: "),
    ("a.parquet", pa.table({"x": [1]}), r"none of its columns is known: x"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_used_is_named(tmp_path, name, content, message):
    with pytest.raises(ManifestError, match=message):
        read_hypotheses(write(tmp_path, name, content))


def given(tmp_path, **texts):
    return read_hypotheses(
        write(tmp_path, "a.jsonl", "\n".join(json.dumps({"key": k, "text": t}) for k, t in texts.items()))
    )


def test_missing_and_unknown_keys_are_counted_and_named(dataset, tmp_path):
    rows, notes = match_hypotheses(given(tmp_path, utt00001="one", x="", y=""), dataset)
    assert [(row.key, row.reference, row.hypothesis, row.seconds) for row in rows] == [
        ("utt00000", "one two", "", 0.5), ("utt00001", "one two", "one", 1.0), ("utt00002", "one two", "", 1.5)
    ]  # fmt: skip
    assert [note.partition(": ")[2] for note in notes] == [
        "2 of 3 utterances have no hypothesis (utt00000, utt00002): all their words count as left out",
        f"2 of 3 hypotheses are for utterances that {dataset.location} does not have (x, y): they are left out",
    ]
    complete = given(tmp_path, utt00000="", utt00001="", utt00002="")
    assert match_hypotheses(complete, dataset)[1] == ()


def test_hypotheses_of_other_data_are_refused(dataset, tmp_path):
    with pytest.raises(
        ManifestError, match=r"none of its 1 hypothesis is for an utterance of .*set: it has key 'x', the"
    ):
        match_hypotheses(given(tmp_path, x="one"), dataset)


def test_recordings_are_found_by_their_path(dataset, tmp_path):
    path = write(tmp_path, "a.csv", "source,text\naudios/2.wav,three\n")
    rows, _ = match_hypotheses(read_hypotheses(path), dataset, language="de")
    assert [(row.hypothesis, row.language) for row in rows] == [("", "de"), ("", "de"), ("three", "de")]


def test_several_utterances_of_one_recording_need_keys(tmp_path):
    from whisper_shard.dataset.index import Dataset

    data = make_dataset(tmp_path / "set", [0.5, 1.0])
    path = write(tmp_path, "a.csv", "source,text\nlong.wav,three\n")

    def pieces(self, *names, rows=0, real=Dataset.pieces):
        for piece in real(self, *names, rows=rows):
            place = piece.schema.get_field_index("source")
            yield piece.set_column(place, piece.schema.field(place), pa.array(["long.wav"] * len(piece)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "pieces", pieces)
        with pytest.raises(
            ManifestError, match=r"several utterances of .*set are of one recording; give .* a column key"
        ):
            match_hypotheses(read_hypotheses(path), data)


@pytest.mark.parametrize(
    ("key", "text", "words"), [("x", "one two", "are not in"), ("utt00001", "one", "have another text in")]
)
def test_scores_of_other_data_are_refused(dataset, key, text, words):
    rows = [
        EvaluatedUtterance(key=each, reference=said, hypothesis="", language="en", hit_cap=False, seconds=1)
        for each, said in (("utt00000", "one two"), (key, text))
    ]
    with pytest.raises(
        DatasetError, match=rf"old: was scored on other data: 1 of its 2 utterances {words} .*set \({key}\)"
    ):
        check_same_data("old", rows, dataset)
    check_same_data("old", rows[:1], dataset)
