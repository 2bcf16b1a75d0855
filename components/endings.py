"""How a step ends: the line that failed, and a signal that becomes an ordinary exit."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_PACKAGES = (_ROOT / "components", _ROOT / "pipelines")


def where(error: BaseException) -> str:
    """Name the deepest line of our own code that an error went through, else of any code."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is who caught it
    if not frames:
        return ""
    ours = [f for f in frames if any(Path(f.filename).is_relative_to(p) for p in _PACKAGES)]
    deepest = (ours or frames)[-1]
    path = Path(deepest.filename)
    return f"{path.relative_to(_ROOT) if ours else path.name}:{deepest.lineno}"


@contextmanager
def termination_as_exit() -> Iterator[None]:
    """Let SIGTERM, with which clusters stop a step, end it like an exit that can be tracked."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may listen to signals
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
