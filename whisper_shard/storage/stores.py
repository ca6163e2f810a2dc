"""Opens the client of each kind of object storage, with the credentials that its own tools would find.

Credentials come from the usual variables (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``), from static keys in ``~/.aws``, or
from the machine in the cloud. They go to the client and nowhere else: never into a message, a log or a file.
"""

import configparser
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import obstore.store

from whisper_shard.errors import ConfigError, EnvironmentFault
from whisper_shard.storage.location import SCHEMES, Location

_CONNECT_SECONDS = 5.0
_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST", "SSL_CERT_FILE", "HOME")
"""Beginnings of the variables that a client reads; profiles lie in HOME."""
_UNUSED_KEYS = ("client_email", "private_key", "private_key_id")
_STALL_SECONDS = 10.0
"""A connection that brings nothing for so long is given up, and the request made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """How object storage is reached; credentials come from the usual variables of each cloud, never from here."""

    endpoint: str | None = None
    """URL of a server of your own, as ``https://storage.example.org``; none is AWS_ENDPOINT_URL, else the cloud."""
    region: str | None = None
    """Region of an S3 bucket; none is AWS_REGION, else that of the profile, else us-east-1."""
    anonymous: bool = False
    """Send no credentials, as public buckets want it."""
    request_timeout_seconds: float = 30.0
    """Longest time for one request, seconds; what has arrived by then is kept, and the rest is asked for again."""
    retry_budget_seconds: float = 120.0
    """How long a request is repeated without any new byte before it is given up, seconds."""

    def __post_init__(self) -> None:
        if self.request_timeout_seconds <= 0:
            raise ConfigError(f"request_timeout_seconds is {self.request_timeout_seconds}; it must be above 0")
        if self.retry_budget_seconds < 0:
            raise ConfigError(f"retry_budget_seconds is {self.retry_budget_seconds}; it must be at least 0")


def open_store(location: Location, config: StorageConfig, *, max_retries: int) -> Any:
    """Return the client for the bucket of ``location``, opened once for the variables that are set now.

    Args:
        location: Anything in the bucket.
        config: How to reach it.
        max_retries: What the client itself repeats, out of sight; 0 where the caller repeats.

    Raises:
        ConfigError: The profile or the certificates named in the environment cannot be used.
        BaseError: The client finds no use for these settings; see `store_errors.explain`.
        EnvironmentFault: This process was forked from one that had used object storage.
    """
    if _first_process() != os.getpid():
        # Threads of the client do not survive a fork: the first request would wait for ever.
        raise EnvironmentFault(
            f"{location}: this process was forked from one that had used object storage, where it would hang; start "
            "processes with the method forkserver or spawn"
        )
    return _open_bucket(location.scheme, location.bucket, config, max_retries, _read_variables())


def _read_variables() -> tuple[tuple[str, str], ...]:
    """Return the variables that a client is opened with, so that another one is opened when they have changed."""
    return tuple(item for item in os.environ.items() if item[0].startswith(_PREFIXES))


@cache
def _first_process() -> int:
    """Return the process that used object storage first; a forked child inherits the answer."""
    return os.getpid()


@lru_cache(maxsize=64)
def _open_bucket(
    scheme: str,
    bucket: str,
    config: StorageConfig,
    max_retries: int,
    variables: tuple[tuple[str, str], ...],  # noqa: ARG001 - part of the key: the clients themselves read them
) -> Any:
    location = Location(scheme, bucket, "")
    endpoint = config.endpoint or _endpoint_of(scheme)
    options: dict[str, Any] = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, config.request_timeout_seconds)),
        "read_timeout": timedelta(seconds=min(_STALL_SECONDS, config.request_timeout_seconds)),
        "timeout": timedelta(seconds=config.request_timeout_seconds),
    }
    if certificates := os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE"):
        options["root_certificate"] = _read_certificates(certificates)
    retries = {"max_retries": max_retries, "retry_timeout": timedelta(seconds=config.request_timeout_seconds)}
    settings = {"client_options": options, "retry_config": retries}
    module, _, name = SCHEMES[scheme].opener.partition(":")
    return getattr(import_module(module), name)(location, config, settings)


def _read_certificates(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read these certificates ({error.strerror}); correct AWS_CA_BUNDLE"
        ) from error


def _endpoint_of(scheme: str) -> str | None:
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("STORAGE_EMULATOR_HOST",),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }
    return next((os.environ[name] for name in names.get(scheme, ()) if os.environ.get(name)), None)


def open_s3(location: Location, config: StorageConfig, settings: Mapping[str, Any]) -> Any:
    """Return the client of an S3 bucket, or of a server that speaks its protocol."""
    s3: dict[str, Any] = {"checksum_algorithm": "SHA256"}
    if config.anonymous:
        s3["skip_signature"] = True
    elif not _has_s3_credentials():
        s3 |= _read_profile(location)
    if config.endpoint:
        s3["endpoint"] = config.endpoint
    if config.region:
        s3["region"] = config.region
    return obstore.store.S3Store(location.bucket, **s3, **settings)


def open_gs(location: Location, config: StorageConfig, settings: Mapping[str, Any]) -> Any:
    """Return the client of a bucket of Google Cloud Storage."""
    gs: dict[str, Any] = {"skip_signature": True} if config.anonymous else {}
    if server := config.endpoint or _endpoint_of("gs"):  # the client takes another server only from a key file
        key = {"gcs_base_url": server, "disable_oauth": True} | dict.fromkeys(_UNUSED_KEYS, "")
        gs |= {"service_account_key": json.dumps(key), "skip_signature": True}
    return obstore.store.GCSStore(location.bucket, **gs, **settings)


def open_az(location: Location, config: StorageConfig, settings: Mapping[str, Any]) -> Any:
    """Return the client of a container of Azure Blob Storage."""
    az: dict[str, Any] = {"skip_signature": True} if config.anonymous else {}
    if config.endpoint:
        az["endpoint"] = config.endpoint
    return obstore.store.AzureStore(location.bucket, **az, **settings)


def open_https(location: Location, config: StorageConfig, settings: Mapping[str, Any]) -> Any:  # noqa: ARG001
    """Return the client of a host."""
    return obstore.store.HTTPStore(f"https://{location.bucket}", **settings)


def _has_s3_credentials() -> bool:
    """Return whether the client finds credentials, or the wish for none, in the environment by itself."""
    names = (
        "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE",
    )  # fmt: skip
    return any(os.environ.get(name) for name in names)


def _read_profile(location: Location) -> dict[str, str]:
    """Return keys and region of the user's AWS profile; nothing where there is none.

    Raises:
        ConfigError: AWS_PROFILE names a profile that is not there or has no static keys.
    """
    wanted = os.environ.get("AWS_PROFILE")
    profile = wanted or "default"
    home = Path.home() / ".aws"
    keys = _read_section(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", profile)
    config_section = profile if profile == "default" else f"profile {profile}"
    settings = _read_section(os.environ.get("AWS_CONFIG_FILE") or home / "config", config_section)
    found = {**settings, **keys}
    if wanted and "aws_access_key_id" not in found:
        state = "has no static keys" if found else "does not exist in ~/.aws"
        raise ConfigError(
            f"{location}: the profile {wanted!r} of AWS_PROFILE {state}; run "
            f'eval "$(aws configure export-credentials --profile {wanted} --format env)" first'
        )
    names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key"}
    names |= {"token": "aws_session_token", "region": "region"}
    if os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        del names["region"]
    return {name: found[key] for name, key in names.items() if key in found}


def _read_section(path: Path | str, section: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as a profile of AWS; correct or remove it") from error
    return dict(parser[section]) if parser.has_section(section) else {}
