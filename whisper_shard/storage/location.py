"""Where a file or a folder lies: a local path, or a URL of object storage.

To add a scheme, write a function that opens its store, as those in ``storage/stores.py``, and name it in SCHEMES.
"""

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from whisper_shard.errors import ConfigError, suggest

LOCAL = "file"


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of object storage."""

    form: str
    """How its URLs look."""
    opener: str
    """``module:function`` that opens the store of a bucket; imported when the first one is opened."""


SCHEMES = {
    "s3": Scheme("s3://BUCKET/FOLDER", "whisper_shard.storage.stores:open_s3"),
    "gs": Scheme("gs://BUCKET/FOLDER", "whisper_shard.storage.stores:open_gs"),
    "az": Scheme("az://CONTAINER/FOLDER", "whisper_shard.storage.stores:open_az"),
    "https": Scheme("https://HOST/FOLDER", "whisper_shard.storage.stores:open_https"),
}
"""Schemes of URLs. What lies at ``https`` can only be read."""
_OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az", "http": "https"}
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://|(pipe):)(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*")
_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Location:
    """A file or a folder, local or in object storage. Its text holds no credentials, since none can be part of it."""

    scheme: str
    """``file``, or one of SCHEMES."""
    bucket: str
    """Bucket, container or host; empty for a local path."""
    key: str
    """Path in the bucket, without a slash at either end; the path itself if it is local."""

    def __str__(self) -> str:
        if self.is_local:
            return self.key
        key = quote(self.key) if self.scheme == "https" else self.key
        return f"{self.scheme}://{self.bucket}" + (f"/{key}" if key else "")

    @property
    def is_local(self) -> bool:
        """Whether this is a path on this machine."""
        return self.scheme == LOCAL

    @property
    def name(self) -> str:
        """Last part of the path."""
        return Path(self.key).name

    @property
    def parent(self) -> "Location":
        """The folder that this lies in; of a bucket, the bucket."""
        parent = Path(self.key).parent
        key = str(parent) if self.is_local or parent != Path() else ""
        return Location(self.scheme, self.bucket, key)

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            ConfigError: This is a URL.
        """
        if not self.is_local:
            raise ConfigError(f"{self}: a URL cannot be used here; give a local path")
        return Path(self.key)

    def resolve(self, name: str) -> str:
        """Return the path or URL that ``name`` means in a list of files that lies in this folder.

        Args:
            name: A URL, an absolute path of this machine, or a path relative to this folder, with ``..`` or without.
        """
        if is_url(name):
            return unquote(name.removeprefix("file://")) if name.startswith("file:///") else name
        if self.is_local or name.startswith("/"):
            return str(Path(self.key, name))
        key = posixpath.normpath("/".join(filter(None, (self.key, name))))
        return str(Location(self.scheme, self.bucket, key))

    def join(self, *names: str) -> "Location":
        """Return what lies at a relative path below this folder.

        Raises:
            ConfigError: A name is empty, absolute or climbs out with ``..``.
        """
        for name in names:
            _check_key(name, f"{self}/{name}")
        if self.is_local:
            return Location(self.scheme, self.bucket, str(Path(self.key, *names)))
        return Location(self.scheme, self.bucket, "/".join(filter(None, (self.key, *names))))


def parse_location(text: Location | Path | str) -> Location:
    """Return the location that a user names: a URL of a known scheme, else a local path.

    Raises:
        ConfigError: The scheme is unknown, or the URL has a fault; what might be a password is not repeated.
    """
    if isinstance(text, Location):
        return text
    match = None if isinstance(text, Path) else _URL.fullmatch(text)
    if match is None:
        return Location(LOCAL, "", str(Path(text)))
    scheme, rest = (match[1] or match[2]).lower(), match[3]
    if scheme == LOCAL and rest.startswith("/"):
        return Location(LOCAL, "", str(Path(unquote(rest))))
    if scheme not in SCHEMES:
        nearest = _OTHER_NAMES.get(scheme)
        hint = f"; did you mean {nearest}://?" if nearest else suggest(scheme, list(SCHEMES))
        raise ConfigError(f"{scheme}: unknown scheme; known are {', '.join(SCHEMES)}, and local paths{hint}")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise ConfigError(f"{scheme}://: credentials do not belong in a URL; set the variables of the cloud instead")
    if not (_HOST if scheme == "https" else _BUCKET).fullmatch(bucket):
        raise ConfigError(f"{scheme}://{bucket}: not a name of a {_kind(scheme)}; the form is {SCHEMES[scheme].form}")
    if scheme == "https":
        if "?" in key or "#" in key:
            raise ConfigError(f"https://{bucket}: a URL with a query or a fragment cannot name a folder; leave it out")
        key = unquote(key)
    key = key.rstrip("/")
    if key:
        _check_key(key, f"{scheme}://{bucket}/{key}")
    return Location(scheme, bucket, key)


def is_url(text: str) -> bool:
    """Return whether a text begins like a URL, of any scheme."""
    return "://" in text and _URL.fullmatch(text) is not None


def local_path(text: Path | str, *, what: str) -> Path:
    """Return a path on this machine.

    Args:
        text: What the user gave.
        what: The flag or the argument, for the message.

    Raises:
        ConfigError: It is a URL.
    """
    location = parse_location(text)
    if not location.is_local:
        raise ConfigError(f"{what} {location}: only a local path can be used here, not a URL")
    return location.path


def _kind(scheme: str) -> str:
    return {"https": "host", "az": "container"}.get(scheme, "bucket")


def _check_key(key: str, whole: str) -> None:
    parts = key.split("/")
    if not key.isprintable():
        raise ConfigError(f"{whole!a}: the path holds characters that cannot be printed")
    if {"", ".", ".."} & set(parts):
        raise ConfigError(f"{whole}: the path holds an empty part, '.' or '..'; write it without")
