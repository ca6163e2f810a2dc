"""Flags for object storage, the same for all commands that take URLs: they stand for the usual variables of the clouds.

They are no settings: nothing of them is printed, logged, or written into a configuration, a plan or a run.
"""

import re
from dataclasses import dataclass

from whisper_shard.errors import ConfigError

_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[\w./-]*)?")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ENDPOINT")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ANONYMOUS_VARIABLES = ("AWS_SKIP_SIGNATURE", "GOOGLE_SKIP_SIGNATURE", "AZURE_SKIP_SIGNATURE")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFlags:
    """How one command reaches object storage; credentials come from the usual variables alone."""

    endpoint_url: str = ""
    """URL of a server of your own, for all buckets of the command; empty: the variables of the cloud."""
    region: str = ""
    """Region of S3 buckets; empty: AWS_REGION, else that of the profile, else us-east-1."""
    anonymous: bool = False
    """Send no credentials, as public buckets want it."""

    def __post_init__(self) -> None:
        """Validate; what might be a password is not repeated."""
        if self.endpoint_url and not _ENDPOINT.fullmatch(self.endpoint_url):
            raise ConfigError("--endpoint-url must be http://HOST or https://HOST, without credentials")
        if self.region and not _REGION.fullmatch(self.region):
            raise ConfigError(f"--region {self.region!a}: must be the name of a region, such as eu-central-1")

    def as_variables(self) -> dict[str, str]:
        """Return the variables of the environment that the flags stand for; processes inherit them."""
        found = dict.fromkeys(_ENDPOINT_VARIABLES, self.endpoint_url) if self.endpoint_url else {}
        found |= dict.fromkeys(_REGION_VARIABLES, self.region) if self.region else {}
        return found | (dict.fromkeys(_ANONYMOUS_VARIABLES, "true") if self.anonymous else {})
