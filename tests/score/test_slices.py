import numpy as np
import pandas as pd
import pytest

from tests.making import make_dataset
from whisper_shard.config.score import ScoreConfig, SliceColumn, parse_slice_column
from whisper_shard.dataset.columns import COLUMNS_SCHEMA, write_columns
from whisper_shard.errors import ConfigError
from whisper_shard.score import slices
from whisper_shard.score.evaluation import EvaluatedUtterance, summarize_utterances
from whisper_shard.score.slices import (
    NO_VALUE,
    SMALL_UTTERANCES,
    SliceNames,
    find_unsliced,
    name_sources,
    read_slices,
    slice_scores,
)


def evaluate(rows):
    """Evaluate (key, reference, hypothesis, seconds)."""
    utterances = [
        EvaluatedUtterance(key=key, reference=reference, hypothesis=hypothesis, language="en", hit_cap=False,
                           seconds=seconds)
        for key, reference, hypothesis, seconds in rows
    ]  # fmt: skip
    return summarize_utterances(utterances, window="full", form="basic", loss=1.0, seconds=1.0)


def names_of(dataset, text):
    (found,) = read_slices(dataset, [parse_slice_column(text)])
    return found.by_key.astype(object).to_dict()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("slices") / "set", [0.5, 1.5, 3.0, 1.0], per_shard=3)


def test_slices_are_the_sums_of_their_utterances():
    evaluation = evaluate([
        ("k2", "one two", "one too", 1.5),
        ("k0", "three", "three", 0.5),
        ("k1", "four five six", "four six", 1.0),
    ])  # fmt: skip
    speakers = pd.Series(pd.Categorical(["ann", "ann", NO_VALUE]), index=["k0", "k2", "k1"])
    ann, nobody = slice_scores(evaluation, [SliceNames(kind="speaker", by_key=speakers, is_ordered=False)])
    assert (ann.name, ann.num_utterances, ann.seconds, ann.is_small) == ("ann", 2, 2.0, True)
    assert (ann.words.substitutions, ann.words.errors, ann.words.num_reference) == (1, 1, 3)
    assert (ann.chars.errors, ann.chars.num_reference) == (1, 12)
    assert (nobody.name, nobody.words.deletions, nobody.words.num_reference) == (NO_VALUE, 1, 3)
    low, high = ann.interval
    assert 0.0 == low < high == 0.5


def test_a_slice_is_small_below_a_number_of_utterances():
    rows = [(f"k{i:03}", "one", "one", 1.0) for i in range(2 * SMALL_UTTERANCES - 1)]
    names = pd.Series(["a"] * SMALL_UTTERANCES + ["b"] * (SMALL_UTTERANCES - 1), index=[row[0] for row in rows])
    found = slice_scores(evaluate(rows), [SliceNames(kind="speaker", by_key=names, is_ordered=False)])
    assert [part.is_small for part in found] == [False, True]


def test_columns_of_the_index(dataset):
    assert names_of(dataset, "seconds") == {
        "utt00000": "below 1 s", "utt00001": "1 to 2 s", "utt00002": "2 to 5 s", "utt00003": "1 to 2 s"
    }  # fmt: skip
    assert set(names_of(dataset, "seconds:2").values()) == {"below 2 s", "2 s and more"}
    assert names_of(dataset, "speaker")["utt00001"] == "speaker1"
    assert set(names_of(dataset, "language").values()) == {NO_VALUE}
    assert names_of(dataset, "shard:1") == dict.fromkeys(["utt00000", "utt00001", "utt00002"], "below 1") | {
        "utt00003": "1 and more"
    }
    rates = dataset.columns("num_chars")["num_chars"] / np.array([0.5, 1.5, 3.0, 1.0])
    expected = ["below 5 characters/s" if rate < 5 else "5 characters/s and more" for rate in rates]
    assert list(names_of(dataset, "chars_per_second:5").values()) == expected


def test_numbers_are_cut_at_their_quartiles(dataset, monkeypatch):
    monkeypatch.setattr(slices, "SECONDS_EDGES", (10.0,))  # all in one slice
    found = names_of(dataset, "seconds")
    assert sorted(found.values()) == ["0.875 to 1.25 s", "1.25 to 1.88 s", "1.88 s and more", "below 0.875 s"]


def test_columns_beside_the_dataset(dataset):
    keys = dataset.columns("key")["key"]
    rows = [
        {"row": i, "key": key, "hypothesis": "", "wer": 0.0, "cer": i / 2, "num_words": 1, "word_errors": 0,
         "avg_logprob": -1.0, "language_probability": None, "heard_language": None, "hit_cap": i == 0}
        for i, key in enumerate(keys) if i < 3
    ]  # fmt: skip
    table = COLUMNS_SCHEMA.empty_table().from_pylist(rows, schema=COLUMNS_SCHEMA)
    write_columns(dataset, "first", table, model="", fingerprint="", settings={})
    assert list(names_of(dataset, "first.cer:0.5,1").values()) == ["below 0.5", "0.5 to 1", "1 and more", NO_VALUE]
    assert list(names_of(dataset, "first.hit_cap").values()) == ["yes", "no", "no", NO_VALUE]
    with pytest.raises(ConfigError, match=r"--by first\.cerr: the columns first have no cerr"):
        names_of(dataset, "first.cerr")
    with pytest.raises(ConfigError, match=r"has no columns 'second' beside it"):
        names_of(dataset, "second.cer")


def test_defaults_are_what_the_index_has(dataset):
    assert [found.kind for found in read_slices(dataset, [])] == ["seconds", "speaker", "language"]


def test_a_column_with_one_value_makes_no_slices_and_is_named(dataset):
    evaluation = evaluate([(f"utt0000{i}", "one", "one", 1.0) for i in range(4)])
    wanted = [SliceColumn(column="language"), SliceColumn(column="speaker")]
    found = slice_scores(evaluation, read_slices(dataset, wanted))
    assert {part.kind for part in found} == {"speaker"}
    assert list(find_unsliced(found, wanted)) == ["--by language: all utterances are in one slice, so none is shown"]


def test_of_many_values_the_rare_ones_are_joined(dataset, monkeypatch):
    monkeypatch.setattr(slices, "MAX_SLICES", 1)
    assert sorted(names_of(dataset, "speaker").values()) == ["1 other values", "1 other values", "speaker0", "speaker0"]
    with pytest.raises(ConfigError, match="--by text: each of 4 utterances has a value of its own"):
        names_of(dataset, "text")


def test_columns_that_cannot_be_used(dataset):
    with pytest.raises(ConfigError, match=r"--by speker: .*set has no such column; did you mean 'speaker'\?"):
        names_of(dataset, "speker")
    with pytest.raises(ConfigError, match=r"--by qqq: .* no such column; there are shard, num_samples, "):
        names_of(dataset, "qqq")
    with pytest.raises(ConfigError, match="--by speaker: its values are no numbers, leave out the edges"):
        names_of(dataset, "speaker:1")


@pytest.mark.parametrize("text", ["", "seconds:", "seconds:a", "seconds:2,1", ":1", "seconds:inf", "seconds:1,1"])
def test_malformed_columns_are_named(text):
    with pytest.raises(ConfigError, match=rf"--by {text}: must be COLUMN, or COLUMN:EDGE,EDGE,..."):
        ScoreConfig(by=(text,))


def test_a_column_is_named_once():
    with pytest.raises(ConfigError, match="--by seconds seconds:1: names a column twice"):
        ScoreConfig(by=("seconds", "seconds:1"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/cv/clips/1.mp3", "/d/libri/train/2.flac"], ["cv", "libri"]),
        (["a/1.wav", "a/2.wav"], [".", "."]),
        (["1.wav", "cv/1.wav"], [".", "cv"]),
        (["libri/dev/84/1/x.flac", "libri/dev/84/2/x.flac", "libri/dev/85/1/x.flac"], ["84", "84", "85"]),
        (["c\\d\\1.wav", "c\\e\\1.wav"], ["d", "e"]),
    ],
)
def test_sources_are_the_folders_in_which_paths_differ(paths, names):
    assert name_sources(paths) == names
