"""What a test has the application do, one step after the other: written by the tests, played by `applications`.

A step that is a string is one block. The other steps are made by the functions here, so that a test reads as the life of a
stream:

>>> [event("hello"), pause(2), half_an_event("never ends")]
['data: hello\\n\\n', {'do': 'pause', 'seconds': 2}, 'data: never ends']
"""

from __future__ import annotations

Step = str | dict[str, object]

LINE = "Zeile, línea, 行: each of these lines is a field of the event\n"


def event(data: str) -> Step:
    """Yield an event of one line."""
    return f"data: {data}\n\n"


def half_an_event(data: str) -> Step:
    """Yield the beginning of an event's line."""
    return f"data: {data}"


def nothing() -> Step:
    """Yield ``b""``."""
    return ""


def text(data: str) -> Step:
    """Yield a `str`, which WSGI forbids."""
    return {"do": "text", "data": data}


def large_event(size: int, *, many_lines: bool) -> Step:
    """Yield one event of *size* bytes as one block: see `large_event_bytes`."""
    return {"do": "large_event", "size": size, "many_lines": many_lines}


def same_event(size: int, *, times: int) -> Step:
    """Yield one event of *size* bytes on one line so many times, as a broadcast does: it is made once."""
    return {"do": "same_event", "size": size, "times": times}


def large_document(size: int) -> Step:
    """Yield one event of *size* bytes as one block: JSON on one line, see `large_document_bytes`."""
    return {"do": "large_document", "size": size}


def send_time() -> Step:
    """Yield an event of 1 KB with the time on the clock that all processes share, `time.monotonic`.

    Caddy compresses, and holds back, only what begins with 512 bytes at once.
    """
    return {"do": "send_time"}


def pause(seconds: float) -> Step:
    """Sleep, deaf to the end of the stream."""
    return {"do": "pause", "seconds": seconds}


def wait_for_release(seconds: float = 60) -> Step:
    """Sleep, deaf to the end of the stream, until the test says so through `Server.release`."""
    return {"do": "wait_for_release", "seconds": seconds}


def wait_for_the_end(seconds: float = 60) -> Step:
    """Wait for the end of the stream with its handle, and note when it came; return from the application then."""
    return {"do": "wait_for_the_end", "seconds": seconds}


def go_on_until_closing(seconds: float, data: Step) -> Step:
    """Yield *data* each so many *seconds* until the stream is closing, and note when that came; return then."""
    return {"do": "go_on_until_closing", "seconds": seconds, "data": data}


def fail(message: str) -> Step:
    """Raise a `RuntimeError`."""
    return {"do": "fail", "message": message}


def compute(seconds: float, *, in_c: bool = False) -> Step:
    """Compute, and let no greenlet run meanwhile; *in_c*: and no thread."""
    return {"do": "compute", "seconds": seconds, "in_c": in_c}


def exit_process(how: str) -> Step:
    """Raise a ``SystemExit``, or have a greenlet end this one in a sleep: ``GreenletExit``."""
    return {"do": "exit_process", "how": how}


def repeat(*steps: Step, times: int = 1_000_000_000) -> Step:
    """Play the steps again and again."""
    return {"do": "repeat", "steps": steps, "times": times}


def say_how_much() -> Step:
    """Write how many bytes the application has yielded to the server's output."""
    return {"do": "say_how_much"}


def large_event_bytes(size: int, *, many_lines: bool) -> bytes:
    """Return an event of exactly *size* bytes, in lines that are short, or in one that no cut at a line's end can help."""
    line = f"data: {LINE}" if many_lines else LINE.rstrip("\n")
    filling = line.encode() * (size // len(line.encode()))
    head = b"" if many_lines else b"data: "
    rest = b"data: ".ljust(size, b".") if many_lines else b"." * size
    return (head + filling + rest)[: size - 2] + b"\n\n"


def large_document_bytes(size: int) -> bytes:
    """Return an event of exactly *size* bytes: a list of strings, which may be broken between any two of them."""
    items = b'"%s",' % LINE.rstrip("\n").encode()
    begin, end = b"data: [", b"]\n\n"
    filling = items * ((size - len(begin) - len(end) - 2) // len(items))
    return begin + filling + b'"%s"' % (b"." * (size - len(begin) - len(filling) - len(end) - 2)) + end
