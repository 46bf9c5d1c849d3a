r"""What is wrong with an event stream, worst first: pure functions on an `Observation` of it.

>>> seen = Observation("http://localhost/events", status=200, headers=[("Content-Type", "text/html")], headers_at=0.1)
>>> seen.finish(CLEANLY, 1.0)
>>> diagnose(seen)[0].what
'The type is not text/event-stream: an EventSource gives up, and never reconnects.'

``python -m ssemiddleware doctor URL`` watches a stream, and prints this. Nothing here does I/O, starts a thread or reads a
clock.
"""

from .comparing import Comparison, compare
from .culprits import REFUSAL
from .diagnosing import diagnose, is_healthy, summary
from .findings import Finding, Severity
from .observation import CLEANLY, CUT, OPEN, Observation

__all__ = [
    "CLEANLY", "CUT", "OPEN", "REFUSAL", "Comparison", "Finding", "Observation", "Severity", "compare", "diagnose",
    "is_healthy", "summary",
]  # fmt: skip
