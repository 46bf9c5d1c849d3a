"""Hundreds of clients connect and disconnect, while gunicorn's gthread and gevent workers are reloaded and restarted.

    python -m tests.soak --minutes 10

Each round has clients for some seconds, in the middle of which a server is reloaded (SIGHUP), restarted (SIGTERM) or left
alone; then all disconnect at once, except those that have vanished without a packet, and the worker may keep nothing: no
stream, no place, no kept thread, no thread, descriptor or memory more than there should be. A line of figures a minute; the
first thing that is wrong ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .clients import Client
from .server import Gunicorn, Inside, Stuck

CLIENTS = 150  # of each server
THREADS = 120  # of gthread: 90 may be streams, so that some are refused
BEFORE, AFTER = 6.0, 6.0  # seconds of a round before and after what is done to the server
RESTS_WITHIN = 15.0  # seconds until nothing is left of a round
MORE_DESCRIPTORS, MORE_THREADS = 5, 5
MORE_MEMORY = 1.25  # times that of the first rounds, and some
SOME_MEMORY = 10_000_000  # bytes: what the allocator keeps differs from round to round
FIRST_ROUNDS = 2


class Soaked:
    """One server and its clients, round after round."""

    def __init__(self, worker: str, folder: Path) -> None:
        self.server = Gunicorn(worker, THREADS, _free_port(), folder / f"{worker}.log")
        self.figures: Counter[str] = Counter()
        self._clients = [Client(number, self.server.port, self.figures) for number in range(CLIENTS)]
        self._rests: list[Inside] = []
        self._rounds = 0

    async def round(self) -> None:
        """Have all clients for some seconds, do something to the server, and look at what is left."""
        over: list[bool] = []
        visits = [asyncio.create_task(client.come_and_go(lambda: bool(over))) for client in self._clients]
        doing = asyncio.create_task(self._disturb())
        await asyncio.wait({*visits, doing}, return_when=asyncio.FIRST_COMPLETED)  # a visit only if something is wrong
        over.append(True)
        for each in visits:
            each.cancel()
        results = await asyncio.gather(*visits, return_exceptions=True)
        for wrong in results:
            if isinstance(wrong, Exception):
                raise wrong
        await doing
        self._check(await self._rest())
        for client in self._clients:
            client.close_vanished()
        self._rounds += 1

    async def _disturb(self) -> None:
        await asyncio.sleep(BEFORE)
        what = ("reload", "restart", "nothing")[self._rounds % 3]
        if what != "nothing":
            act: Callable[[], float] = self.server.reload if what == "reload" else self.server.restart
            seconds = await asyncio.to_thread(act)
            self.figures[f"{what}s"] += 1
            self.figures["longest stop, ms"] = max(self.figures["longest stop, ms"], round(seconds * 1000))
        await asyncio.sleep(AFTER)

    async def _rest(self) -> Inside:
        deadline = time.monotonic() + RESTS_WITHIN
        while (inside := await asyncio.to_thread(self.server.inside)).open or inside.kept_threads:
            if time.monotonic() > deadline:
                raise Stuck(f"{self.server.worker}: {RESTS_WITHIN} s after the last client there is {inside}")
            await asyncio.sleep(0.2)
        return inside

    def _check(self, inside: Inside) -> None:
        self._rests.append(inside)
        first = self._rests[:FIRST_ROUNDS]
        limits = {
            "threads": (THREADS if self.server.worker == "gthread" else 0) + MORE_THREADS,  # it starts them one by one
            "descriptors": max(each.descriptors for each in first) + MORE_DESCRIPTORS,
            "of_main_process": max(each.of_main_process for each in first) + MORE_DESCRIPTORS,
            "resident": round(MORE_MEMORY * max(each.resident for each in first) + SOME_MEMORY),
        }
        for name, limit in limits.items():
            if getattr(inside, name) > limit:
                raise Stuck(f"{self.server.worker}: {name} has grown beyond {limit}: {self._rests}")
        if re.search(r'File ".*/ssemiddleware/', self.server.output()):  # gunicorn has tracebacks of its own while it stops
            raise Stuck(f"{self.server.worker} has logged an error")

    def line(self) -> str:
        """Return the figures so far."""
        counted = ", ".join(f"{number} {what}" for what, number in sorted(self.figures.items()))
        inside = self._rests[-1] if self._rests else None
        at_rest = inside and f"{inside.resident >> 20} MiB, {inside.threads} threads, {inside.descriptors} descriptors"
        return f"{self.server.worker}: {self._rounds} rounds, {counted}; at rest {at_rest}"


async def soak(minutes: float, folder: Path) -> None:
    """Soak both servers at the same time."""
    began, printed = time.monotonic(), 0
    soaked = [Soaked("gthread", folder), Soaked("gevent", folder)]
    try:
        while (passed := time.monotonic() - began) < 60 * minutes:
            if passed // 60 > printed:
                printed = int(passed // 60)
                _print(printed, soaked)
            await asyncio.gather(*(each.round() for each in soaked))
        _print(round((time.monotonic() - began) / 60, 1), soaked)
    except BaseException:
        for each in soaked:
            sys.stderr.write(f"{each.line()}\n{each.server.output()[-5000:]}\n")
        raise
    finally:
        for each in soaked:
            each.server.end()


def _print(minutes: float, soaked: list[Soaked]) -> None:
    for each in soaked:
        sys.stdout.write(f"{minutes} min, {each.line()}\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def main() -> int:
    """Soak; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            asyncio.run(soak(parser.parse_args().minutes, Path(folder)))
        except Exception:
            traceback.print_exc()
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
