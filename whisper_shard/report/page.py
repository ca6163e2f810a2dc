"""The frame of an HTML page: one file, no scripts, nothing loaded; for light and dark, wide and narrow windows."""

import html

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;overflow-wrap:anywhere}
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:1.6em}
table{border-collapse:collapse;margin:.6em 0;display:block;overflow-x:auto}
td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top;overflow-wrap:normal}
.numbers :is(td,th):nth-child(n+2),.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:currentColor}
.small{opacity:.7;font-size:.9em}
"""


def render_page(title: str, body: str, *, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: Of the window, as text.
        body: HTML. Colours should be seen on white and on black: tints are half transparent.
        style: Further CSS.
    """
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style>{body}</html>\n"
    )
