"""What a look at a server's frames tells, and that it keeps nothing alive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssemiddleware.servers.loop import find_local, has_sent, is_called_from_c, iterates
from ssemiddleware.servers.server import Loop

LOOPS = (Loop(__name__, "respond", "response", "block"), Loop(__name__, "finish_response", "self.result", "block"))


class Looking:
    """An iterable of two events that looks each time it is asked; *blocks* are what it has yielded."""

    def __init__(self, look: Callable[[Looking], object]) -> None:
        self._look, self.seen, self.blocks = look, list[Any](), list[bytes]()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.seen.append(self._look(self))
        if len(self.blocks) == 2:
            raise StopIteration
        self.blocks.append(b"data: %d\n\n" % len(self.blocks))
        return self.blocks[-1]


def respond(response: Any) -> list[Any]:
    """Be a server whose function has locals."""
    for block in response:
        assert block
    return list[Any]()


class Response:
    """Is a server whose iterable is an attribute of its own."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def finish_response(self) -> None:
        for block in self.result:
            assert block


@pytest.mark.parametrize("serve", [respond, lambda found: Response(found).finish_response()], ids=["a local", "an attribute"])
def test_what_the_server_iterates_is_seen(serve: Callable[[Looking], object]) -> None:
    direct = Looking(lambda self: iterates(LOOPS, self))
    serve(direct)
    assert direct.seen == [True, True, True]

    sent = Looking(lambda self: bool(self.blocks) and has_sent(LOOPS, self.blocks[-1]))
    serve(sent)
    assert sent.seen == [False, True, True]


def test_a_layer_that_changes_blocks_is_seen() -> None:
    looking = Looking(lambda self: (iterates(LOOPS, self), bool(self.blocks) and has_sent(LOOPS, self.blocks[-1])))
    respond(map(bytes.upper, looking))
    assert looking.seen == [(False, False)] * 3


def test_bytes_of_which_there_is_one_object_only_prove_nothing() -> None:
    block = b"\n"
    seen = list[bool]()

    def blocks() -> Iterator[bytes]:
        yield block
        seen.append(has_sent(LOOPS, block))

    respond(blocks())
    assert seen == [False]


def test_without_a_server_there_is_nothing() -> None:
    assert not iterates(LOOPS, object())
    assert not has_sent(LOOPS, b"data: 1\n\n")
    assert find_local(LOOPS, "response") is None


def test_a_local_of_the_servers_frame_is_found() -> None:
    looking = Looking(lambda self: (find_local(LOOPS, "response") is self, find_local(LOOPS, "nothing")))
    respond(looking)
    assert looking.seen == [(True, None)] * 3


def test_a_look_keeps_no_block_alive() -> None:
    first, never_sent = (b"data: %d\n\n" % number for number in (1, 2))

    def blocks() -> Iterator[bytes]:
        yield first
        assert has_sent(LOOPS, first)  # a look while the server holds it
        yield b"data: 3\n\n"
        references.append(sys.getrefcount(first) - sys.getrefcount(never_sent))

    references = list[int]()
    respond(blocks())
    assert references == [0]


# -- a server written in C: `next` stands for it, and the code of a module for the script that has started pyuwsgi


_OURS = """
class Asking:
    def __iter__(self):
        return self

    def __next__(self):
        return self.ask()

    def ask(self):
        return is_called_from_c()
"""


@pytest.fixture
def asking() -> Iterator[bool]:
    """An iterator of this package's: frames of ours are no layer."""
    ours: dict[str, Any] = {"__name__": "ssemiddleware.stream", "is_called_from_c": is_called_from_c}
    exec(_OURS, ours)
    found: Iterator[bool] = ours["Asking"]()
    return found


def ask_from_a_script(iterator: Iterator[bool]) -> bool:
    names: dict[str, Any] = {"__name__": "__main__", "iterator": iterator}
    exec("found = next(iterator)", names)
    return bool(names["found"])


def layer(blocks: Iterator[bool]) -> Iterator[bool]:
    yield from blocks


def test_no_layer_is_seen_where_only_a_script_stands_above(asking: Iterator[bool]) -> None:
    assert ask_from_a_script(asking)


def test_a_layer_is_seen_where_the_server_has_no_frame(asking: Iterator[bool]) -> None:
    assert not ask_from_a_script(layer(asking))
    assert not next(asking)
