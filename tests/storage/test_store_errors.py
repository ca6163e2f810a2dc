"""Texts of the client that no server can be made to cause at will."""

import pytest
from obstore.exceptions import GenericError

from whisper_shard.errors import EnvironmentFault
from whisper_shard.storage.location import Location
from whisper_shard.storage.store_errors import explain

LOCATION = Location("s3", "bucket", "shards/000000.tar")


@pytest.mark.parametrize("cause", ["Canceled", "ChannelClosed", "Io, Os { code: 103, kind: ConnectionAborted }"])
def test_a_kept_connection_that_the_server_closes_is_worth_another_try(cause):
    text = "Generic S3 error: Error performing HEAD http://host/x in 221µs - HTTP error: error sending request"
    source = f"HttpError {{ kind: Unknown, source: hyper_util::client::legacy::Error(SendRequest, hyper::Error({cause}"
    fault = explain(GenericError(f"{text}\n\nDebug source:\n{source}"), LOCATION, verb="read")
    assert fault.patience_seconds == float("inf")
    assert isinstance(fault.error, EnvironmentFault)
    assert str(fault.error) == "s3://bucket/shards/000000.tar: the connection breaks"


def test_what_is_not_known_is_shown_without_addresses_and_not_repeated():
    fault = explain(GenericError("Odd error at http://host/x?Signature=secret here\nmore"), LOCATION, verb="write")
    assert fault.patience_seconds == 0
    assert str(fault.error) == "s3://bucket/shards/000000.tar: cannot write (GenericError Odd error at ... here)"
