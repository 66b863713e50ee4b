"""Blobs that are slow, busy, cut off, damaged or silent, and a clock that only moves when somebody sleeps."""

from __future__ import annotations

import threading

from headrace.storage import Unavailable


class FakeClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self):
        self.now, self.sleeps = 0.0, []
        self._lock = threading.Lock()

    def sleep(self, seconds):
        with self._lock:
            self.now += seconds
            self.sleeps.append(seconds)


class FlakyBlob:
    """A blob of which each call is first handed to `trouble(call number, operation, path)`.

    What that returns decides: None lets the call pass, an exception is raised, a function is applied to the bytes.
    Counts calls and how many were under way at once.
    """

    def __init__(self, inner, trouble=lambda number, operation, path: None):
        self.inner, self.trouble = inner, trouble
        self.calls, self.running, self.most_running = [], 0, 0
        self._lock = threading.Lock()

    @property
    def url(self):
        return self.inner.url

    def _call(self, operation, path, *args):
        with self._lock:
            number = len(self.calls)
            self.calls.append((operation, path, *args))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            happens = self.trouble(number, operation, path)
            if isinstance(happens, Exception):
                raise happens
            got = getattr(self.inner, operation)(path, *args)
            return got if happens is None else happens(bytes(got))
        finally:
            with self._lock:
                self.running -= 1

    def size(self, path):
        return self._call("size", path)

    def get(self, path):
        return self._call("get", path)

    def get_range(self, path, start, stop):
        return self._call("get_range", path, start, stop)

    def put(self, path, data):
        return self._call("put", path, data)

    def put_if_absent(self, path, data):
        return self._call("put_if_absent", path, data)

    def list(self, prefix=""):
        return self._call("list", prefix)

    def delete(self, path):
        return self._call("delete", path)


def busy():
    return Unavailable("503 SlowDown", throttled=True)


def cut():
    return Unavailable("connection reset by peer")
