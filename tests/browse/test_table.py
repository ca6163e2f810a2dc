import numpy as np
import pyarrow as pa
import pytest

from tests.making import make_dataset
from whisper_shard.browse.table import PAGE_ROWS, Query, UtteranceTable


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    seconds = [0.1 + 0.01 * (number * 7 % 60) for number in range(60)]
    return UtteranceTable(make_dataset(tmp_path_factory.mktemp("browsed") / "train", seconds, per_shard=25))


def keys(page):
    return [row["key"] for row in page.rows]


def test_pages_hold_every_utterance_once(table):
    first, second, beyond = (table.find(Query(page=page)) for page in (0, 1, 7))
    assert (len(first.rows), first.num_found, first.num_pages) == (PAGE_ROWS, 60, 2)
    assert keys(first) + keys(second) == [f"utt{number:05d}" for number in range(60)]
    assert beyond == second and beyond.page == 1
    assert [row["position"] for row in second.rows] == list(range(50, 60))


@pytest.mark.parametrize("is_descending", [False, True])
def test_sorted_by_a_number(table, is_descending):
    page = table.find(Query(sort="seconds", is_descending=is_descending))
    seconds = [row["seconds"] for row in page.rows]
    assert seconds == sorted(seconds, reverse=is_descending)
    assert seconds[0] == pytest.approx(0.69 if is_descending else 0.1)


def test_texts_are_found_in_any_case_and_taken_as_they_are(table):
    found = table.find(Query(text="SPEAKER1", sort="key"))
    assert found.num_found == 30 and keys(found)[:2] == ["utt00001", "utt00003"]
    assert keys(table.find(Query(text="utt0004", sort="seconds", is_descending=True)))[0] == "utt00042"
    for text in (".*", "%", "utt00001\0", "nowhere"):
        page = table.find(Query(text=text))
        assert (page.rows, page.num_found, page.num_pages) == ([], 0, 1), text


def test_an_unknown_column_is_no_order(table):
    assert keys(table.find(Query(sort="nothing"))) == keys(table.find(Query()))
    assert keys(table.find(Query(sort="num_samples", is_descending=True)))[0] == "utt00059"


def test_utterances_without_a_value_are_last(table, monkeypatch):
    values = pa.chunked_array([pa.array([None, *np.arange(59.0)])])
    monkeypatch.setattr(table, "_table", table._table.append_column("channel_correlation", values))
    for is_descending in (False, True):
        order = table._find_order("", "channel_correlation", is_descending)
        assert order[-1] == 0


def test_a_dataset_without_utterances_has_one_empty_page(tmp_path):
    page = UtteranceTable(make_dataset(tmp_path / "train", [])).find(Query(text="a", sort="seconds"))
    assert (page.rows, page.num_pages) == ([], 1)
