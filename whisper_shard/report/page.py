"""Pages from the templates in ``templates/``: one file each, without scripts, and nothing is loaded from elsewhere.

Texts of a corpus reach a page as values of a template. Every value is escaped, so that a transcript cannot add markup.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, **values: object) -> str:
    """Return a page.

    Args:
        template: Name of a file in ``templates/``, such as ``score.html``.
        values: What the template shows; a name that it uses and that is missing here is an error.

    Raises:
        jinja2.UndefinedError: A value is missing.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("whisper_shard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
