"""What a client of object storage reports becomes one line: where, what happened, what to do.

The text of the client is searched for the code of the server (``<Code>NoSuchBucket</Code>``) or the name of the fault
of the connection. It is never shown as it is: it is long, and holds addresses that may be signed.
"""

import re
from dataclasses import dataclass

from whisper_shard.errors import ConfigError, DatasetError, EnvironmentFault
from whisper_shard.storage.location import Location

_CREDENTIALS_SECONDS = 5.0
"""How long a cloud's own source of credentials is asked again: outside the cloud nothing will ever answer there."""
_FOREVER = float("inf")
_NO_BUCKET = "<Code>(NoSuchBucket|ContainerNotFound)|specified bucket does not exist"
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "https": "nothing: https is read without credentials",
}
_ANONYMOUS = {"s3": "AWS_SKIP_SIGNATURE=true", "gs": "GOOGLE_SKIP_SIGNATURE=true", "az": "AZURE_SKIP_SIGNATURE=true"}


class AccessDenied(ConfigError):
    """The credentials are valid, but not for this object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFault:
    """What went wrong with a request."""

    error: Exception
    """What to raise if it is not, or no longer, worth another try."""
    patience_seconds: float = 0.0
    """How long another try may help: 0 is never, infinity as long as the retry budget lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    pattern: str
    message: str
    kind: type[Exception] = ConfigError
    patience_seconds: float = 0.0


_KINDS = (
    _Kind(
        pattern=r"169\.254\.(169\.254|170\.2)|/latest/(api/token|meta-data)|metadata\.google\.internal|token request",
        message="no credentials found; set {keys}{anonymous}",
        patience_seconds=_CREDENTIALS_SECONDS,
    ),
    _Kind(
        pattern="Missing SecretAccessKey|Missing AccessKeyId|Account must be specified",
        message="the credentials are not complete; set {keys}{anonymous}",
    ),
    _Kind(
        pattern=_NO_BUCKET,
        message="there is no bucket {bucket!r} there; check its name, the endpoint and the region",
    ),
    _Kind(
        pattern=r"without LOCATION|AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraint",
        message="the bucket lies in another region{region}; set AWS_REGION to its own",
    ),
    _Kind(
        pattern="RequestTimeTooSkewed|RequestExpired",
        message="the clock of this machine differs too much from that of the server; set it, then try again",
    ),
    _Kind(
        pattern="ExpiredToken|TokenRefreshRequired|InvalidToken",
        message="the session of the credentials has expired; sign in again, then run the same command again",
    ),
    _Kind(
        pattern="InvalidAccessKeyId|SignatureDoesNotMatch|UnauthenticatedError|401 Unauthorized|AuthenticationFailed",
        message="the server does not accept the credentials; check {keys}",
    ),
    _Kind(
        pattern="PermissionDeniedError|403 Forbidden|AccessDenied|AllAccessDisabled",
        message="access denied; ask the owner of the bucket for the right to {verb} there, or use other credentials",
        kind=AccessDenied,
    ),
    _Kind(
        pattern="InvalidCertificate|invalid peer certificate|UnknownIssuer",
        message="the certificate of the server is not valid here; name its authority in AWS_CA_BUNDLE, or correct the "
        "endpoint",
    ),
    _Kind(
        pattern="received corrupt message|InvalidContentType|BadScheme|InvalidMessage",
        message="the endpoint does not speak the protocol of its URL; correct http:// or https:// in the endpoint",
    ),
    _Kind(pattern="status code: 416|InvalidRange", message="ends too early; restore it", kind=DatasetError),
    _Kind(
        pattern="non-partial response",
        message="the server cannot send a part of a file; copy the dataset to a server that can, or to a local folder",
    ),
    _Kind(
        pattern="InsufficientStorage|status code: 507|QuotaExceeded|XMinioStorageFull",
        message="no space is left there; free some, then run the same command again",
        kind=EnvironmentFault,
    ),
)
_NETWORK = {
    "dns error|failed to lookup": "the name of the server cannot be resolved; check the endpoint and the network",
    "ConnectionRefused": "the server refuses connections; check the endpoint, and whether the server runs",
    "429 Too Many|SlowDown|503 Service": "the server asks to slow down",
    r"non-2xx status code: (5\d\d)": "the server reports a fault of its own",
    "TimedOut|Timeout": "the server does not answer in time",
    "ConnectionReset|Interrupted|IncompleteMessage|UnexpectedEof|BrokenPipe": "the connection breaks",
    # Whatever else the transport reports, as a kept connection that the server closes just when it is used again.
    "hyper::Error|error sending request": "the connection breaks",
}
"""Faults that may pass by themselves."""


def explain(error: Exception, location: Location, *, verb: str) -> StoreFault:
    """Return what an error of the client means.

    Args:
        error: What the client raised.
        location: What was asked for.
        verb: ``read`` or ``write``.
    """
    text = f"{type(error).__name__} {error}"
    if location.key:  # a file may be named AccessDenied
        text = re.sub(rf"(?<=[/\" ]){re.escape(location.key)}(?![\w/])", "", text)
    if isinstance(error, FileNotFoundError) and not re.search(_NO_BUCKET, text):
        return StoreFault(error=FileNotFoundError(f"{location}: does not exist"))
    for kind in _KINDS:
        if re.search(kind.pattern, text):
            message = kind.message.format(
                keys=_KEYS[location.scheme],
                anonymous=_advise_anonymous(location),
                bucket=location.bucket,
                region=_find_region(text),
                verb=verb,
            )
            return StoreFault(error=kind.kind(f"{location}: {message}"), patience_seconds=kind.patience_seconds)
    for pattern, meaning in _NETWORK.items():
        if found := re.search(pattern, text):
            status = f" (status {found[1]})" if found.groups() else ""
            return StoreFault(error=EnvironmentFault(f"{location}: {meaning}{status}"), patience_seconds=_FOREVER)
    return StoreFault(error=EnvironmentFault(f"{location}: cannot {verb} ({_first_words(text)})"))


def _advise_anonymous(location: Location) -> str:
    wish = _ANONYMOUS.get(location.scheme)
    return f", or {wish} for a bucket that everybody may read" if wish else ""


def _find_region(text: str) -> str:
    found = re.search(r"<Region>([a-z0-9-]{1,40})</Region>", text)
    return f", {found[1]}" if found else ""


def _first_words(text: str) -> str:
    """Return the beginning of a message that is not known here, without addresses."""
    line = " ".join(text.splitlines()[:1])
    return re.sub(r"\S+://\S+", "...", line)[:200]
