from html.parser import HTMLParser

from whisper_shard.report.page import render_page


def test_a_page_is_whole_and_loads_nothing():
    page = render_page("<b>A & B", "<h1>Body</h1>", style="h1{color:red}")
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    assert [tag for tag, _ in tags] == ["html", "meta", "meta", "title", "style", "h1"]
    assert ("meta", {"name": "viewport", "content": "width=device-width"}) in tags
    assert "<title>&lt;b&gt;A &amp; B</title>" in page and "h1{color:red}</style><h1>Body</h1></html>" in page
    assert "color-scheme:light dark" in page and "http" not in page and "url(" not in page
