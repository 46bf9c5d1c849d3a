"""What a server's frames show, and that looking at them keeps nothing alive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssemiddleware.servers.loop import find_local, has_sent, is_called_from_c, iterates
from ssemiddleware.servers.server import Loop

LOOPS = (Loop(__name__, "respond", "response", "block"), Loop(__name__, "finish_response", "self.result", "block"))


class Looking:
    """An iterable of two events. It calls *look* at each `next`; `blocks` has what it has yielded."""

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
    """Act as a server that has the iterable in a local."""
    for block in response:
        assert block
    return list[Any]()


class Response:
    """Acts as a server that has the iterable in an attribute."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def finish_response(self) -> None:
        for block in self.result:
            assert block


@pytest.mark.parametrize("serve", [respond, lambda found: Response(found).finish_response()], ids=["a local", "an attribute"])
def test_the_frame_shows_what_the_server_iterates_and_has_sent(serve: Callable[[Looking], object]) -> None:
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


def test_bytes_that_exist_only_once_prove_nothing() -> None:
    block = b"\n"
    seen = list[bool]()

    def blocks() -> Iterator[bytes]:
        yield block
        seen.append(has_sent(LOOPS, block))

    respond(blocks())
    assert seen == [False]


def test_without_a_server_nothing_is_found() -> None:
    assert not iterates(LOOPS, object())
    assert not has_sent(LOOPS, b"data: 1\n\n")
    assert find_local(LOOPS, "response") is None


def test_a_local_of_the_servers_frame_is_found() -> None:
    looking = Looking(lambda self: (find_local(LOOPS, "response") is self, find_local(LOOPS, "nothing")))
    respond(looking)
    assert looking.seen == [(True, None)] * 3


def test_looking_keeps_no_block_alive() -> None:
    first, never_sent = (b"data: %d\n\n" % number for number in (1, 2))

    def blocks() -> Iterator[bytes]:
        yield first
        assert has_sent(LOOPS, first)  # looks while the server has it
        yield b"data: 3\n\n"
        references.append(sys.getrefcount(first) - sys.getrefcount(never_sent))

    references = list[int]()
    respond(blocks())
    assert references == [0]


# -- a server written in C: `next` acts as one, and a module's code as the script that started pyuwsgi


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
    """An iterator of this package, whose own frames do not count as a layer."""
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


def test_no_layer_is_seen_when_only_a_script_calls(asking: Iterator[bool]) -> None:
    assert ask_from_a_script(asking)


def test_a_layer_is_seen_when_the_server_has_no_frame(asking: Iterator[bool]) -> None:
    assert not ask_from_a_script(layer(asking))
    assert not next(asking)
