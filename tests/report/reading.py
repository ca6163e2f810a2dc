"""Read a page as a browser does, and refuse one that is not whole or reaches outside."""

import re
from html.parser import HTMLParser

VOID = {"meta"}
"""Elements without an end tag."""
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "small", "div", "span", "br", "table", "thead",
    "tbody", "tr", "th", "td", "svg", "rect", "line", "text",
    "h3", "audio",
}  # fmt: skip
HOSTILE = "<script>alert(\"1\")</script> {{ 7 * 7 }} {% include 'x' %} ' & <b>"
"""A text that would change a page that did not escape it."""


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID | {"br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what is not open"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
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

    def _check_that_it_is_alone(self):
        for tag, attributes in self.tags:
            assert tag in ALLOWED, f"<{tag}> is not used in pages"
            for name, value in attributes.items():
                if (tag, name) == ("audio", "src"):
                    assert re.fullmatch(r"data:audio/[a-z0-9]+;base64,[A-Za-z0-9+/]*=*", value), value[:60]
                    continue
                assert name not in ("src", "href", "style", "srcset", "data") and not name.startswith("on"), name
                assert "://" not in (value or ""), value

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)
