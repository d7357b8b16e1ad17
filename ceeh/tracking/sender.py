"""The thread that takes a run's entries to its MLflow server, and waits where there is none."""

import atexit
import logging
import threading
import time
from collections.abc import Callable

from ceeh.runtime.text import escape, redact
from ceeh.tracking.mlflow_run import MLflowRun, Refused
from ceeh.tracking.outbox import Outbox

CLOSE_SECONDS, FLUSH_SECONDS = 0.8, 15.0
PACE_SECONDS = 1.0
"""Between one sending and the next: what was logged meanwhile goes in one call."""
UPLOAD_BYTES_PER_SECOND = 5e6
"""What a server is at least expected to take when a run waits for its last files."""


# It logs whole addresses, query and all, which may hold a secret; what failed is said here, redacted.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

log = logging.getLogger(__name__)


class Sender:
    """Sends the entries of `outbox`, in order, from a daemon thread; nothing is raised.

    While the server does not take an entry, it and all after it wait in the outbox and are tried again
    every `retry_seconds`. What the server *refuses* is dropped. Each kind of trouble is logged once.
    """

    def __init__(self, outbox: Outbox, *, retry_seconds: float) -> None:
        self.outbox = outbox
        self.retry_seconds = retry_seconds
        self._change = threading.Condition()
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None
        self._run: MLflowRun | None = None
        self._hurry = False
        self._failing = False
        self._failures = 0
        self._retry_at = 0.0
        self._progress = 0.0
        self._warned: set[str] = set()

    def wake(self) -> None:
        """Tells the thread, which is started when there is none, that there is something to send."""
        with self._change:
            if self._thread is None:
                self._start()
            self._change.notify_all()

    def flush(self) -> bool:
        """Waits until all is sent, an attempt fails or nothing was taken for FLUSH_SECONDS, longer for
        large files. Says whether all is sent."""
        self.wake()
        with self._change:
            failures, self._hurry = self._failures, True
            self._progress = time.monotonic()
            self._change.notify_all()
            while not self.outbox.is_empty and self._failures == failures:
                allowed = FLUSH_SECONDS + self.outbox.next_size() / UPLOAD_BYTES_PER_SECOND
                patience = self._progress + allowed - time.monotonic()
                if patience <= 0 or not self._change.wait(patience):
                    break
            self._hurry = False
        return self.outbox.is_empty

    def close(self) -> None:
        """Ends the thread, within a second; says how to send what is left. Harmless when called twice."""
        with self._change:
            thread = self._thread
            if thread is None:
                return
            self._hurry = True
            self._change.notify_all()
            if not self._failing:
                self._change.wait_for(lambda: self.outbox.is_empty or self._failing, CLOSE_SECONDS)
            self._thread = None
            self._change.notify_all()
        atexit.unregister(self.close)
        thread.join(0.1)
        if left := self.outbox.num_waiting:
            log.warning(
                "%d entries for MLflow were not sent; send them later with: python -m ceeh.tracking %s",
                *(left, self.outbox.folder),
            )

    def _start(self) -> None:
        # In the caller's thread: an import is not to be raced, and its failure is no server's fault.
        import mlflow  # noqa: F401

        self._retry_at, self._failing, self._hurry = 0.0, False, False
        self._thread = threading.Thread(target=self._loop, name="mlflow-sender", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _loop(self) -> None:
        me = threading.current_thread()
        while True:
            with self._change:
                while self._thread is me and not self._is_due():
                    wait = self._retry_at - time.monotonic()
                    self._change.wait(wait if wait > 0 and not self.outbox.is_empty else None)
                if self._thread is not me:
                    return
            with self._sending:  # one that was closed may still be at it
                self._attempt(lambda: self._thread is me)
            with self._change:
                self._change.notify_all()

    def _is_due(self) -> bool:
        return not self.outbox.is_empty and (self._hurry or time.monotonic() >= self._retry_at)

    def _attempt(self, wanted: Callable[[], bool]) -> None:
        try:
            if self._run is None:
                self._run = MLflowRun.open(self.outbox, self._warn)
            while wanted() and (entries := self.outbox.read()):
                self._send(self._run, entries, wanted)
            self._failing = False
            self._retry_at = time.monotonic() + PACE_SECONDS
        except Exception as error:  # an outside service: whatever it raises, the training goes on
            self._retry_at = time.monotonic() + self.retry_seconds
            self._failures, self._failing, self._hurry = self._failures + 1, True, False
            self._warn("silent", f"does not answer, will be tried again: {error}")

    def _send(self, run: MLflowRun, entries: list, wanted: Callable[[], bool]) -> None:
        """Sends `entries`, neighboring metrics together, and notes each as sent."""
        while entries and wanted():
            count, end = run.together(entries)
            try:
                run.take([entry for entry, _ in entries[:count]])
            except Refused as refusal:
                self._warn(refusal.kind, f"refused something, which is dropped: {refusal}")
            self.outbox.note(sent=end)
            entries = entries[count:]
            self._failing, self._progress = False, time.monotonic()
            with self._change:
                self._change.notify_all()

    def _warn(self, kind: str, words: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            # The client's own words may quote the address, password and all.
            text = f"MLflow at {self.outbox.state['uri']} {' '.join(words.split())}"
            log.warning(
                "%s. Training goes on; everything is kept in %s",
                escape(redact(text)[:600]),
                self.outbox.folder,
            )
