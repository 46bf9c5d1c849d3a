"""Server-Sent Events that work under WSGI: one line around any application.

>>> from ssemiddleware import SSEMiddleware
>>> app = SSEMiddleware(app)
"""

from .event_stream import Event, read_events
from .headers import accepts_event_stream
from .memory import MemoryGovernor
from .middleware import SSEMiddleware, wrap
from .stream import Stream

__all__ = ["Event", "MemoryGovernor", "SSEMiddleware", "Stream", "accepts_event_stream", "read_events", "wrap"]
