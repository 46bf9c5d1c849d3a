"""Clients that obey ``retry:`` while the server behind their proxies restarts: does each get events again?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from .columns import NO_EVENT, Cell, Route
from .event_source import EventSource, close_all
from .serving import play_target
from .steps import event, pause, repeat

CLIENTS = 6  # of each route
BEGUN_WITHIN = 6.0  # seconds until each has its first event; what is held does not arrive at all
BACK_WITHIN = 15.0  # seconds until each has the first of the new server: it waits for 4.5 at most


def restart(routes: Sequence[Route], start_again: Callable[[], None]) -> list[Cell]:
    """The server restarts: which clients of each route get a status after which an EventSource never reconnects?"""
    target = play_target(repeat(event("tick"), pause(0.3)))
    clients = [[EventSource(route.proxy, route.mount + target) for _ in range(CLIENTS)] for route in routes]
    everybody = [client for group in clients for client in group]
    try:
        begun = those_with_event(everybody, since=0, within=BEGUN_WITHIN)
        start_again()
        back = those_with_event(begun, since=time.monotonic(), within=BACK_WITHIN)
    finally:
        close_all(everybody)
    return [of_restart(group, begun, back) for group in clients]


def those_with_event(clients: Collection[EventSource], since: float, within: float) -> set[EventSource]:
    """Return those to whom an event came after *since*, in the next seconds."""
    deadline = time.monotonic() + within
    return {client for client in clients if client.wait_for_event(since, max(0.0, deadline - time.monotonic()))}


def of_restart(clients: list[EventSource], begun: set[EventSource], back: set[EventSource]) -> Cell:
    died = [client.died_of for client in clients if client.died_of]
    if not begun.issuperset(clients):
        return NO_EVENT
    if died:
        return Cell(f"{len(died)} of {len(clients)} died of a {died[0]}", is_right=False)
    lost = len(set(clients) - back)
    return Cell(f"{lost} of {len(clients)} get no more events" if lost else "ok", is_right=not lost)
