"""The application with /metrics beside it, as a project has it; gunicorn's settings too."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

from ssemiddleware.prometheus import StreamCollector

from .applications import app, app_with_heartbeats

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

REGISTRY.register(StreamCollector(play=app, hurry=app_with_heartbeats))


def app_with_metrics(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer /metrics for all processes, and pass everything else to the wrapped application."""
    if environ["PATH_INFO"] != "/metrics":
        return app(environ, start_response)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Process", str(os.getpid()))])
    return [generate_latest(registry)]


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a worker that has gone had open."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
