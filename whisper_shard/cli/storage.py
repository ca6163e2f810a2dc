"""The flags for object storage are taken off the command line, and hold while a command runs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from whisper_shard.config.storage import StorageFlags
from whisper_shard.errors import ConfigError

STORAGE_HELP = (
    "Object storage (s3://, gs://, az://, https://): --endpoint-url URL names a server of your own, --region NAME the "
    "region of S3 buckets; --anonymous sends no credentials. These are not for TOML files: docs/object-storage.md."
)
"""What ``--help`` says of the flags."""
_WITH_VALUE = {"--endpoint-url": "endpoint_url", "--region": "region"}
_SWITCH = "--anonymous"


def take_storage_flags(argv: Sequence[str]) -> tuple[StorageFlags, list[str]]:
    """Return the flags for object storage, and the other arguments.

    Raises:
        ConfigError: A flag has no value, or one that is not possible.
    """
    found: dict[str, str] = {}
    rest, is_anonymous, arguments = list[str](), False, iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument == _SWITCH:
            is_anonymous = True
        elif name in _WITH_VALUE:
            value = value if equals else next(arguments, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{name} needs a value")
            found[_WITH_VALUE[name]] = value
        else:
            rest.append(argument)
    return StorageFlags(anonymous=is_anonymous, **found), rest


@contextmanager
def storage_variables(flags: StorageFlags) -> Iterator[None]:
    """Set the variables that the flags stand for, for this process and those that it starts."""
    variables = flags.as_variables()
    if not variables:
        yield
        return
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
