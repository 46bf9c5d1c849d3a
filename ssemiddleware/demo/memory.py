"""The memory of the server's process: readings as an event stream, and a way to put the process under pressure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flask import Flask, Response, request

from ssemiddleware import Event, MemoryGovernor, SSEMiddleware
from ssemiddleware.demo.pressure import Pressure, PressureRefused
from ssemiddleware.demo.ticks import should_end_after

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def create_memory_app(governor: MemoryGovernor, wrapped: Sequence[SSEMiddleware]) -> Flask:
    """Return the application with `/readings`, twice a second, and `/pressure`, which POST begins and DELETE ends.

    *wrapped*: the middlewares that have *governor*, and whose streams are counted in the readings.
    """
    app = Flask(__name__, static_folder=None)
    pressure = Pressure(governor)

    @app.get("/readings")
    def readings() -> Response:
        return Response(memory_readings(request.environ, governor, wrapped, pressure), mimetype="text/event-stream")

    @app.post("/pressure")
    def begin_pressure() -> Response:
        try:
            pressure.begin()
        except PressureRefused as refusal:
            return Response(f"{refusal}\n", 409, mimetype="text/plain")
        return Response(status=204)

    @app.delete("/pressure")
    def end_pressure() -> Response:
        pressure.end()
        return Response(status=204)

    return app


def memory_readings(
    environ: WSGIEnvironment, governor: MemoryGovernor, wrapped: Sequence[SSEMiddleware], pressure: Pressure
) -> Iterator[bytes]:
    """Yield how full the memory is, and the numbers of the wrapped streams, twice a second."""
    with pressure.watched():
        while True:
            yield bytes(Event(json=memory_now(governor) | streams_now(wrapped) | {"pressure": round(pressure.seconds_left, 1)}))
            if should_end_after(environ, 0.5):
                return


def memory_now(governor: MemoryGovernor) -> dict[str, object]:
    """Return what is used of how much, the mark, all in bytes, and whether it is reached."""
    used, limit = governor.read()
    return {"used": used, "limit": limit, "critical": round(limit * governor.critical), "state": governor.state}


def streams_now(wrapped: Sequence[SSEMiddleware]) -> dict[str, object]:
    """Return what the streams of all these middlewares add up to."""
    stats = [middleware.stats() for middleware in wrapped]
    return {
        "open": sum(each.open for each in stats),
        "pauses": sum(each.pauses for each in stats),
        "paused_seconds": round(sum(each.paused_seconds for each in stats), 1),
        "refused": sum(each.refused for each in stats),
    }
