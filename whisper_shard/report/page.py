"""Pages from the templates in ``templates/``: one file each, and nothing is loaded from elsewhere.

Texts of a corpus reach a page as values of a template. Every value is escaped, so that a transcript cannot add markup.
The one script, ``lists.js``, sorts and searches; a page names its sha256, and a browser runs nothing else.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

SCRIPT_NAME = "lists.js"
"""The script of pages with lists to sort and to search."""


def render_page(template: str, **values: object) -> str:
    """Return a page.

    Args:
        template: Name of a file in ``templates/``, such as ``score.html``.
        values: What the template shows; a name that it uses and that is missing here is an error.

    Raises:
        jinja2.UndefinedError: A value is missing.
    """
    return _environment().get_template(template).render(**values)


def data_url(kind: str, data: bytes) -> str:
    """Return a file as a URL that holds it.

    Args:
        kind: Its media type, such as ``audio/mpeg``.
        data: Its bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("whisper_shard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = files("whisper_shard.report").joinpath("templates", SCRIPT_NAME).read_bytes()
    environment.globals["script_sha256"] = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return environment
