"""What all tests need."""

import signal


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: what a shell runs in the background ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
