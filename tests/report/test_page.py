"""One frame for all pages: whole, alone, and everything in it escaped."""

import re
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError

import whisper_shard.report
from tests.report.reading import HOSTILE, SCRIPT, Page
from whisper_shard.report.page import data_url, render_page

TEMPLATES = sorted((Path(whisper_shard.report.__file__).parent / "templates").iterdir())


def render_dataset(**changes):
    lists = ("checks", "reasons", "rejects", "suspicions", "suspicious", "extremes", "charts", "sections")
    values = {"name": "train", "hours": "", "totals": {}, "has_quality": True, **dict.fromkeys(lists, ())}
    return render_page("dataset.html", **{**values, **changes})


def test_a_page_is_whole_and_loads_nothing():
    html = render_dataset(totals={"rows": "3"})
    page = Page(html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "default-src 'none'" in html and "color-scheme: light dark" in html
    assert "://" not in html and "url(" not in html and "@import" not in html
    assert html.endswith("</html>\n")


def test_values_are_escaped_wherever_they_stand():
    card = {"text": HOSTILE, "facts": [HOSTILE], "clip": None}
    group = {"title": HOSTILE, "note": HOSTILE, "examples": [card]}
    page = Page(render_dataset(name=HOSTILE, totals={HOSTILE: HOSTILE}, rejects=[group]))
    assert page.text.count(HOSTILE) == 8  # the title and the heading, two facts, four parts of a card


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render_page("dataset.html", totals={})


def test_an_unknown_template_is_an_error():
    with pytest.raises(TemplateNotFound, match=r"absent\.html"):
        render_page("absent.html")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_escapes_less_than_all(path):
    source = path.read_text()
    assert source.isascii()
    assert not re.search(r"\|\s*safe|autoescape|Markup", source)
    assert source.count("<script") == source.count('<script>{% include "lists.js" %}</script>')


def test_the_script_makes_no_markup_of_texts_and_loads_nothing():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|XMLHttp|import", SCRIPT
    )
    assert "{{" not in SCRIPT and "{%" not in SCRIPT and "{#" not in SCRIPT


def test_a_file_in_a_url():
    assert data_url("audio/mpeg", b"\x00\xff>") == "data:audio/mpeg;base64,AP8+"
