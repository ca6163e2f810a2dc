"""Read a page as a browser does, and refuse one that is not whole or reaches outside."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import whisper_shard.report

SCRIPT = Path(whisper_shard.report.__file__).parent.joinpath("templates/lists.js").read_text()
VOID = {"meta", "input"}
"""Elements without an end tag."""
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "small", "div", "span", "br", "table", "thead",
    "tbody", "tr", "th", "td", "svg", "rect", "line", "text",
    "h3", "audio", "script", "input", "select", "option", "output", "button", "a", "del", "ins",
}  # fmt: skip
HOSTILE = "<script>alert(\"1\")</script> {{ 7 * 7 }} {% include 'x' %} ' & <b>"
"""A text that would change a page that did not escape it."""


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts, self.scripts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID | {"br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)


class Page:
    """A page that was read: its elements, and its visible text with single spaces."""

    def __init__(self, html):
        reader = _Reader()
        reader.feed(html)
        reader.close()
        assert html.startswith("<!doctype html>") and not reader.open, f"left open: {reader.open}"
        self.tags = reader.tags
        self.text = " ".join(" ".join(reader.texts).split())
        self._check_that_it_is_alone()
        self._check_scripts(reader.scripts)

    def _check_scripts(self, scripts):
        """The one script is ours, without a value of the page in it, and no other can run."""
        (policy,) = (a["content"] for tag, a in self.tags if tag == "meta" and "http-equiv" in a)
        allowed = re.search("script-src ([^;]*);", policy)[1]
        if scripts:
            assert scripts == [SCRIPT]
            assert allowed == f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
        else:
            assert allowed == "'none'"

    def _check_that_it_is_alone(self):
        for tag, attributes in self.tags:
            assert tag in ALLOWED, f"<{tag}> is not used in pages"
            for name, value in attributes.items():
                if (tag, name) == ("a", "href"):
                    assert re.fullmatch("#[a-z]+[0-9]*", value), value
                    continue
                if (tag, name) == ("audio", "src"):
                    assert re.fullmatch(r"data:audio/[a-z0-9]+;base64,[A-Za-z0-9+/]*=*", value), value[:60]
                    continue
                assert name not in ("src", "href", "style", "srcset", "data") and not name.startswith("on"), name
                assert "://" not in (value or ""), value

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)
