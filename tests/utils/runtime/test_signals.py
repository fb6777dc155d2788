import os
import signal
import threading
import time

import pytest

from utils.errors import Interrupted
from utils.runtime.signals import StopSignal


@pytest.fixture(autouse=True)
def without_a_launcher(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)
    time.sleep(0.01)  # Python runs handlers between two instructions of the main thread


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_told_and_raised_where_asked(signum, exit_code, capfd):
    with StopSignal() as stop:
        stop.check()
        send(signum)
        assert stop.signum == signum  # still alive
        with pytest.raises(Interrupted) as caught:
            stop.check()
    assert caught.value.exit_code == exit_code
    assert "saving the state" in capfd.readouterr().err


def test_a_second_signal_stops_at_once():
    with StopSignal(quiet=True) as stop:
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert stop.signum == signal.SIGTERM


def test_what_a_launcher_repeats_within_the_grace_is_one_request(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopSignal(quiet=True) as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.signum == signal.SIGINT
        stop._first_time -= stop.grace_s
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_a_quiet_one_says_nothing(capfd):
    with StopSignal(quiet=True):
        send(signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_handlers_are_restored_also_after_an_error():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]

    def fail(handler: object) -> None:
        raise ValueError(handler)

    stop = StopSignal(quiet=True)
    with pytest.raises(ValueError, match="_note"), stop:
        fail(signal.getsignal(signal.SIGTERM))
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before] == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize(("signum", "ending"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_forked_worker_dies_of_sigterm_and_leaves_sigint_to_its_parent(signum, ending):
    with StopSignal(quiet=True) as stop:
        child = os.fork()
        if child == 0:  # no assertion in here: it would unwind into pytest
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
            os._exit(0 if stop.signum is None else 1)
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == ending
    assert stop.signum is None
