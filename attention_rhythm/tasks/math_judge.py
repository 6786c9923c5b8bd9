"""Are two mathematical answers equal? math-verify, in a process that can be killed.

math-verify's own time limit is a signal to the main thread: useless in threads and workers, and deaf while one
big-integer power runs in C. So there are three processes, and the limit is the kernel's:

    caller  --  nursery (imports math-verify once, one thread)  --  child (forked; does the work, many requests)

Before each request the child arms timers (processor and wall time) whose signals have their default action, death. The
nursery sees the pipe close, reaps the child, answers "no verdict" and forks another in milliseconds. Nobody else needs
a clock, and when the caller dies, however it dies, nursery and child read the end of their pipes and go.

The nursery is started by path with `-P` (this folder holds a math.py that must not hide Python's), not by
multiprocessing: no `if __name__ == "__main__"` is asked of anybody. In a forked process the next call starts a new one.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

logger = logging.getLogger(__name__)

SECONDS = 1.0  # of processor time, so that a busy machine does not change a grade
WALL_FACTOR = 1.6  # and so much more of wall time
START_SECONDS = 60.0
MEMORY_BYTES = 4 << 30
RELATIVE = 2e-6  # of a number, by which another reading of it may differ


@dataclass(frozen=True)
class Verdict:
    """equal: the answers agree. decided: False where the time or memory limit, or a crash, ended it; then not equal."""

    equal: bool
    decided: bool


UNDECIDED = Verdict(False, False)


class MathJudge:
    """One nursery; calls from several threads wait for each other."""

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self._lock = threading.Lock()
        self._nursery: tuple[subprocess.Popen, Connection] | None = None

    def judge(self, gold: str, answer: str) -> Verdict:
        """Whether two answers in LaTeX agree.

        RuntimeError: the grading process does not start.
        """
        with self._lock:
            _, pipe = self._nursery or self._start()
            try:
                pipe.send_bytes(json.dumps([gold, answer]).encode())
                # The child's timer answers long before this; the margin is for a machine that does not schedule it.
                if pipe.poll(self.seconds + START_SECONDS):
                    verdict = Verdict(*json.loads(pipe.recv_bytes()))
                    if not verdict.decided:
                        logger.info("no verdict within %s s on %.80r", self.seconds, answer)
                    return verdict
            except (EOFError, OSError):
                pass  # the nursery is gone
            self._stop()
            return UNDECIDED

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        with self._lock:
            self._stop()

    def _start(self) -> tuple[subprocess.Popen, Connection]:
        ours, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-P", "-W", "ignore", __file__, str(theirs.fileno()), str(self.seconds)]
            # A session of its own: Ctrl-C in the terminal is for the caller, whose end ends it.
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        self._nursery = process, ours
        try:
            ready = ours.poll(START_SECONDS) and ours.recv_bytes() == b"ready"
        except EOFError:
            ready = False
        if not ready:
            self._stop()
            raise RuntimeError("the grading process did not start: is math-verify installed?")
        return self._nursery

    def _stop(self) -> None:
        if self._nursery is None:
            return
        process, pipe = self._nursery
        pipe.close()
        try:
            process.wait(self.seconds + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._nursery = None

    def _forget(self) -> None:
        """In a forked process: the nursery is the parent's, and so may the lock be."""
        if self._nursery is not None:
            process, pipe = self._nursery
            pipe.close()
            process.returncode = 0  # not ours to wait for
        self._lock, self._nursery = threading.Lock(), None


@functools.cache
def shared_judge() -> MathJudge:
    """The judge of this process."""
    judge = MathJudge()
    atexit.register(judge.close)
    os.register_at_fork(after_in_child=judge._forget)
    return judge


# --- the nursery and its child; nothing below runs in the caller ------------------------------------------------------


def _nursery(pipe: Connection, seconds: float) -> None:
    logging.disable(logging.CRITICAL)
    _parse_latex(r"\frac{1}{2}")  # builds the parser before the first fork
    pipe.send_bytes(b"ready")
    child, pid = None, 0
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        if child is None:
            child, pid = _fork_child(pipe, seconds)
        try:
            child.send_bytes(request)
            reply = child.recv_bytes()
        except (EOFError, OSError):
            child.close()
            os.waitpid(pid, 0)
            child = None
            reply = json.dumps([False, False]).encode()
        pipe.send_bytes(reply)


def _fork_child(nursery_pipe: Connection, seconds: float) -> tuple[Connection, int]:
    ours, theirs = Pipe()
    pid = os.fork()
    if pid:
        theirs.close()
        return ours, pid
    ours.close()
    nursery_pipe.close()
    try:
        _child(theirs, seconds)
    finally:
        os._exit(0)  # whatever happened: a crash is "no verdict", and the nursery's stack must not unwind here


def _child(pipe: Connection, seconds: float) -> None:
    import resource

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF, signal.SIGALRM})
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * WALL_FACTOR)
        reply = _compare(*request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send_bytes(json.dumps(reply).encode())


def _compare(gold: str, answer: str) -> tuple[bool, bool]:
    import math_verify

    expected, found = _parse_latex(gold), _parse_latex(answer)
    equal = math_verify.verify(expected, found, timeout_seconds=None)
    return equal and _as_close(expected, found), True


def _as_close(expected: list, found: list) -> bool:
    """math-verify compares numbers after rounding to six decimals, whatever their size: so 1e-7 is 2e-7 to it.

    The guard asks the same of their ratio: two numbers are one where they differ by less than RELATIVE of themselves.
    """
    import sympy

    if not expected or not found:
        return True
    a, b = expected[0], found[0]
    if not all(isinstance(x, sympy.Expr) and x.is_number and x.is_finite for x in (a, b)):
        return True
    a, b = sympy.N(a, 20), sympy.N(b, 20)
    return bool(abs(a - b) <= RELATIVE * max(abs(a), abs(b)))


@functools.lru_cache(maxsize=4096)
def _parse_latex(answer: str) -> list:
    """LaTeX only: math-verify's other reader takes any number out of what it cannot parse, code included."""
    import math_verify

    config = math_verify.LatexExtractionConfig()
    return math_verify.parse(rf"\boxed{{{answer}}}", extraction_config=[config], parsing_timeout=None)


if __name__ == "__main__":
    _nursery(Connection(int(sys.argv[1])), float(sys.argv[2]))
