"""Runs threads one at a time, in every order that a test has time for, and finds the order that breaks something.

Each thread stops before each step: a line of the modules that are given, or an instruction that touches an attribute or calls
something. There a scheduler decides which thread goes on. `explore` tries all decisions, depth first, with no more than a given
number of preemptions: a thread that could go on is made to wait for another. Nearly all bugs need one or two.

A thread that sleeps waits for another to move. When all that are left sleep, they would wait forever: that is a failure.
"""

from __future__ import annotations

import dis
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, ModuleType
from typing import Any, ClassVar, NamedTuple

_MOST_STEPS = 20000  # of one run; more means that threads wake each other forever
_TOUCHES = ("LOAD_ATTR", "STORE_ATTR", "LOAD_METHOD")


class Injected(SystemExit):
    """Raised in a thread between two of its steps, as a signal's handler would."""


class _Abandoned(BaseException):
    """Ends the threads of a run that has failed."""


class Broken(AssertionError):
    """What a run has broken, and the steps that led there."""


class Injection(NamedTuple):
    """Where a run raises `Injected`: before that step of that thread."""

    thread: str
    step: int


class _Choice(NamedTuple):
    chosen: int
    options: int


class _Actor:
    def __init__(self, name: str, act: Callable[[], object]) -> None:
        self.name, self.act = name, act
        self.may_go = threading.Lock()
        self.may_go.acquire()
        self.is_done = False
        self.asleep_at: int | None = None  # the moves when it fell asleep
        self.has_slept = False
        self.looked = 0  # steps since it last woke: only looks, if it falls asleep again
        self.steps = 0


class Run:
    """One order of the steps. *modules* are stopped in at each line that names something *shared*, a regular expression;
    *closely* at each instruction that asks or sets an attribute of such a name.
    """

    _lines: ClassVar[dict[tuple[int, str], frozenset[int]]] = {}  # of all runs: by the number of a code, which is kept
    _instructions: ClassVar[dict[tuple[int, str], frozenset[int]]] = {}
    _codes: ClassVar[list[CodeType]] = []

    def __init__(
        self,
        modules: Iterable[ModuleType],
        closely: Iterable[ModuleType] = (),
        *,
        shared: str = "",
        preemptions: int = 2,
        choices: Iterable[int] = (),
        inject: Injection | None = None,
    ) -> None:
        self._files = {str(module.__file__) for module in modules}
        self._closely = {str(module.__file__) for module in closely}
        self._shared = shared
        self._preemptions_left = preemptions
        self._given = list(choices)
        self.trail: list[_Choice] = []
        self.inject, self.was_injected = inject, False
        self.steps: list[str] | None = None  # where they were, if somebody wants to know
        self.errors: list[str] = []
        self._actors: list[_Actor] = []
        self._by_thread: dict[int, _Actor] = {}
        self._moves = 0
        self._is_abandoned = False
        self._all_done = threading.Event()

    def add(self, name: str, act: Callable[[], object]) -> None:
        """Add a thread. Before the first step, the one that was added first goes first, if nothing else is chosen."""
        self._actors.append(_Actor(name, act))

    def start(self) -> None:
        """Run all threads to their end."""
        threads = [threading.Thread(target=self._run, args=[actor], name=actor.name, daemon=True) for actor in self._actors]
        for thread, actor in zip(threads, self._actors, strict=True):
            thread.start()
            self._by_thread[thread.ident or 0] = actor
        self._go_on_after(None)
        if not self._all_done.wait(30):
            raise Broken(
                "a thread waits for something that is not ours: " + repr([a.name for a in self._actors if not a.is_done])
            )
        for thread in threads:
            thread.join()

    # -- on the threads

    def point(self, where: str = "") -> None:
        """Let others go before the next step. Also for a test's own steps; nothing happens outside of the threads."""
        actor = self._by_thread.get(threading.get_ident())
        if actor is not None:
            self._stop(actor, where)

    def sleep(self, _seconds: float) -> None:
        """Take the place of ``time.sleep``: wait until another thread has moved."""
        actor = self._by_thread[threading.get_ident()]
        self._moves -= actor.looked
        actor.asleep_at = self._moves
        self._switch(actor)
        actor.looked = 0
        actor.asleep_at, actor.has_slept = None, True
        if self._is_abandoned:
            raise _Abandoned

    def _run(self, actor: _Actor) -> None:
        actor.may_go.acquire()
        try:
            if not self._is_abandoned:
                self.trace()
                actor.act()
        except _Abandoned:
            pass
        except BaseException as error:  # a thread's own ways to end are the test's to catch
            self.errors.append(f"{actor.name} raised {error!r}")
        finally:
            sys.settrace(None)
            sys.setprofile(None)
            actor.is_done = True
            self._moves += 1
            self._go_on_after(actor)

    def _stop(self, actor: _Actor, where: str) -> None:
        if self._is_abandoned:
            raise _Abandoned
        actor.steps += 1
        if self.steps is not None:
            self.steps.append(f"{actor.name}: {where}")
        if self._preemptions_left:
            self._switch(actor)
            if self._is_abandoned:
                raise _Abandoned
        actor.looked += actor.has_slept
        self._moves += 1  # now: a thread that has fallen asleep meanwhile may hope for this step
        if self._moves > _MOST_STEPS:
            self._abandon("threads wake each other forever")
        if self.inject == (actor.name, actor.steps) and not self.was_injected:
            self.was_injected = True
            raise Injected

    def _switch(self, actor: _Actor) -> None:
        following = self._next_after(actor)
        if following is None:
            self._abandon(f"{actor.name} waits forever")
        elif following is not actor:
            following.may_go.release()
            actor.may_go.acquire()

    def _go_on_after(self, actor: _Actor | None) -> None:
        following = self._next_after(actor)
        if following is not None:
            following.may_go.release()
        elif all(each.is_done for each in self._actors):
            self._all_done.set()
        else:
            self._abandon("all that are left wait forever")
            self._go_on_after(actor)

    def _abandon(self, why: str) -> None:
        if not self._is_abandoned:
            self._is_abandoned = True
            self.errors.append(why)

    def _next_after(self, actor: _Actor | None) -> _Actor | None:
        """Decide who goes on: first of all who went before; any other costs a preemption, unless that one cannot go on."""
        able = [each for each in self._actors if self._is_able(each)]
        may_stay = actor in able
        if may_stay and actor is not None:
            able.remove(actor)
            able.insert(0, actor)
        if may_stay and not self._preemptions_left:
            return actor
        if len(able) < 2:
            return able[0] if able else None
        chosen = self._given[len(self.trail)] if len(self.trail) < len(self._given) else 0
        self.trail.append(_Choice(chosen, len(able)))
        if may_stay and chosen:
            self._preemptions_left -= 1
        return able[chosen]

    def _is_able(self, actor: _Actor) -> bool:
        if actor.is_done:
            return False
        return actor.asleep_at is None or self._moves > actor.asleep_at or self._is_abandoned

    # -- steps

    def _lines_of(self, code: CodeType) -> frozenset[int]:
        found = self._lines.get((id(code), self._shared))  # a code's hash takes longer than all the rest
        if found is None:
            found = self._lines[id(code), self._shared] = _stops_in(code, self._shared)
            self._codes.append(code)
        return found

    def _instructions_of(self, code: CodeType) -> frozenset[int]:
        found = self._instructions.get((id(code), self._shared))
        if found is None:
            found = self._instructions[id(code), self._shared] = _touching(code, self._shared)
            self._codes.append(code)
        return found

    def trace(self) -> None:
        """Stop in this thread from here on."""
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        file = frame.f_code.co_filename
        if file in self._closely:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return self._trace_opcode
        if file in self._files:
            return self._trace_line if self._lines_of(frame.f_code) else None
        return None

    def _trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_lineno in self._lines_of(frame.f_code):
            self._stop_at(frame)
        return self._trace_line

    def _trace_opcode(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and frame.f_lasti in self._instructions_of(frame.f_code):
            self._stop_at(frame)
        return self._trace_opcode

    def _stop_at(self, frame: FrameType) -> None:
        try:
            self._stop(self._by_thread[threading.get_ident()], f"{frame.f_code.co_name}:{frame.f_lineno}")
        except Injected:
            sys.setprofile(self._trace_again)  # a trace function that raises is not called any more
            raise

    def _trace_again(self, frame: FrameType, event: str, arg: object) -> None:
        sys.setprofile(None)
        sys.settrace(self._trace)
        above: FrameType | None = frame if event != "call" else frame.f_back
        while above is not None:
            if above.f_code.co_filename in self._closely:
                above.f_trace = self._trace_opcode
            elif above.f_code.co_filename in self._files:
                above.f_trace = self._trace_line
            above = above.f_back


def _stops_in(code: CodeType, shared: str) -> frozenset[int]:
    """Return the lines of a function that name something *shared*."""
    lines, first = inspect.getsourcelines(code)
    return frozenset(number for number, line in enumerate(lines, first) if re.search(shared, line))


def _touching(code: CodeType, shared: str) -> frozenset[int]:
    """Return the instructions of a function that ask or set an attribute whose name is *shared*."""
    instructions = (each for each in dis.get_instructions(code) if each.opname in _TOUCHES)
    return frozenset(each.offset for each in instructions if re.search(shared, str(each.argval)))


# What CPython 3.11 says when it finds the stack of a ``with`` in disorder after a trace function that has raised: not in the
# same order again, and seen twice in some hundred runs of all tests.
_LOST_ITS_STACK = "TypeError(\"'traceback' object is not callable\")"
_AGAIN = 3


def explore(make: Callable[[Iterable[int]], Run], check: Callable[[Run], None]) -> int:
    """Run what *make* makes in every order, and *check* each; return how many orders that were. Raise `Broken` for the first
    that breaks something, with its steps.

    *make* is given the choices for the `Run`.
    """
    choices: list[int] = []
    count = 0
    while True:
        run = make(choices)
        run.start()
        for _ in range(_AGAIN):
            if any(_LOST_ITS_STACK in error for error in run.errors):
                run = make(choices)
                run.start()
        count += 1
        try:
            if run.errors:
                raise AssertionError(run.errors)
            check(run)
        except AssertionError as error:
            again = make([choice.chosen for choice in run.trail])
            again.steps = []
            again.start()
            steps = "\n".join(again.steps)
            raise Broken(f"order {count}, {[each.chosen for each in run.trail]}:\n{steps}\n{error}") from error
        trail = run.trail
        while trail and trail[-1].chosen + 1 >= trail[-1].options:
            trail.pop()
        if not trail:
            return count
        last = trail.pop()
        choices = [*(choice.chosen for choice in trail), last.chosen + 1]
