import threading
from email.utils import formatdate

import pytest

from dualselect.models.endpoint.pace import LONGEST_PAUSE, RateLimit, backoff


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_starts_are_spaced_evenly() -> None:
    clock = Clock()
    limit = RateLimit(120, clock=lambda: clock.now, sleep=clock.sleep)
    for _ in range(3):
        limit.wait()
    assert clock.slept == pytest.approx([0.5, 0.5])
    clock.now += 10
    limit.wait()
    assert len(clock.slept) == 2  # time that passed otherwise counts


def test_threads_share_one_limit() -> None:
    slept: list[float] = []
    limit = RateLimit(60, clock=lambda: 0.0, sleep=slept.append)
    threads = [threading.Thread(target=limit.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slept) == [1.0, 2.0, 3.0, 4.0]


def test_no_limit_never_waits() -> None:
    slept: list[float] = []
    limit = RateLimit(0, sleep=slept.append)
    for _ in range(3):
        limit.wait()
    assert slept == []


def test_the_server_is_believed_up_to_a_bound() -> None:
    assert backoff(5, {"retry-after": "3.5"}, 1.0, 2.0) == 3.5
    assert backoff(0, {"retry-after": "999999"}, 1.0, 2.0) == LONGEST_PAUSE
    assert backoff(0, {"retry-after": "-3"}, 1.0, 2.0) == 0.0


def test_milliseconds_are_believed_first() -> None:
    assert backoff(0, {"retry-after-ms": "250", "retry-after": "9"}, 1.0, 2.0) == 0.25


def test_the_server_may_name_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    assert backoff(0, {"retry-after": formatdate(1_000_030, usegmt=True)}, 1.0, 2.0) == 30.0


@pytest.mark.parametrize("value", ["soon", "nan", ""])
def test_what_cannot_be_read_is_ignored(value: str) -> None:
    assert 1.0 <= backoff(1, {"retry-after": value}, 1.0, 60.0) <= 2.0


def test_waits_double_up_to_the_longest() -> None:
    for attempt in range(8):
        for _ in range(20):
            assert min(10.0, 2.0**attempt) / 2 <= backoff(attempt, {}, 1.0, 10.0) <= min(10.0, 2.0**attempt)
