"""Server-Sent Events that work under WSGI: one line around any application.

>>> from ssemiddleware import SSEMiddleware
>>> app = SSEMiddleware(app)
"""

from .compression import Compress
from .event_stream import Event
from .handle import Stream
from .memory import MemoryGovernor
from .middleware import SSEMiddleware
from .oversized import Fold, Fragment, FragmentJoiner
from .reading import read_events
from .request import accepts_event_stream
from .stats import Stats
from .wrapping import wrap

__version__ = "0.2.0"

__all__ = [
    "Compress", "Event", "Fold", "Fragment", "FragmentJoiner", "MemoryGovernor", "SSEMiddleware", "Stats", "Stream",
    "__version__",
    "accepts_event_stream", "read_events", "wrap",
]  # fmt: skip
