"""Signals are noted, and what is ignored stays ignored."""

import os
import signal

import pytest

from whisper_shard.train.signals import StopRequest, catch_stop_signals


@pytest.fixture
def hangup_handler():
    """Set a handler of SIGHUP for the time of a test."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_noted(hangup_handler):
    hangup_handler(signal.SIG_DFL)
    with catch_stop_signals() as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert request.signal == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_under_nohup_a_closed_terminal_stops_nothing(hangup_handler):
    hangup_handler(signal.SIG_IGN)
    with catch_stop_signals() as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert request.signal == 0


def test_output_to_a_closed_terminal_is_discarded_so_that_the_run_can_be_saved():
    terminal, output = os.openpty()
    os.close(terminal)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(output, b"step 1")
    StopRequest([output])(signal.SIGHUP, None)
    assert os.write(output, b"step 1") == 6
    os.close(output)


@pytest.mark.parametrize("announces", [True, False])
def test_ctrl_c_is_announced_on_the_terminal_by_one_rank(announces):
    terminal, output = os.openpty()
    request = StopRequest([output], announces=announces)
    request(signal.SIGINT, None)
    os.write(output, b".")
    shown = os.read(terminal, 200)
    assert (b"Ctrl-C again stops at once, without saving" in shown) == announces
    with pytest.raises(KeyboardInterrupt):
        request(signal.SIGINT, None)
    for descriptor in (terminal, output):
        os.close(descriptor)
