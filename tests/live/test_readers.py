"""One event of 1, 10 and 50 MB in real clients, on one line, folded and in fragments: what arrives is what was sent.

Every reading has a deadline, after which it is late, and so no whole one. What a client is known to refuse or not to manage
is asserted too, as far as that does not take its time: when it gets better, the README's table should say so.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.readers.harness import (
    NPM_PACKAGES,
    Program,
    Reading,
    Server,
    Verdict,
    lacking,
    node_readers,
    python_readers,
    serving,
)
from benchmarks.readers.python_reader import READERS
from ssemiddleware.__main__ import CLIENT
from ssemiddleware.oversized.fragment import Fragmenting

from ..npm import folder_with

pytestmark = [pytest.mark.live, pytest.mark.timeout(480)]  # npm may be slow to install

WITHIN = 60.0  # seconds; most take less than one
SIZES = (1, 10, 50)  # MB
NODE_READERS = [package.partition("@")[0] for package in NPM_PACKAGES]

HTTPX2, OVER_URLLIB3, OVER_REQUESTS = "httpx2", "sseclient-py over urllib3", "sseclient-py over requests"
# What arrives only in fragments: httpx2 has a limit for an event; sseclient-py is quadratic, in the number of lines over
# urllib3 (50 MB: 20 seconds), and in the event's size over requests, which hands it 128 bytes at a time.
ONLY_IN_FRAGMENTS = {(HTTPX2, 10), (HTTPX2, 50), (OVER_URLLIB3, 50), (OVER_REQUESTS, 10), (OVER_REQUESTS, 50)}
EVERYWHERE = [(name, size) for name in (*READERS, *NODE_READERS) for size in SIZES]
FOLDED = [case for case in EVERYWHERE if case not in ONLY_IN_FRAGMENTS]
ON_ONE_LINE = [
    (name, size) for name, size in EVERYWHERE if name != "aiohttp" and (size == 1 or name not in (HTTPX2, OVER_REQUESTS))
]


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("gunicorn")) as server:
        yield server


@pytest.fixture(scope="session")
def npm_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages."""
    return folder_with(NPM_PACKAGES, tmp_path_factory)


@pytest.fixture(scope="session")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the compiler."""
    return folder_with(("typescript@5.9.3",), tmp_path_factory)


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Program:
    name: str = request.param
    if name in NODE_READERS:
        return node_readers(request.getfixturevalue("npm_packages"))[name]
    missing = lacking(READERS[name][1])
    if missing:
        pytest.skip(f"no {', '.join(missing)}")
    return python_readers()[name]


def assert_whole(reading: Reading) -> None:
    assert reading.verdict is Verdict.WHOLE, reading


def with_readers(cases: list[tuple[str, int]]) -> pytest.MarkDecorator:
    ids = [f"{name}, {size} MB" for name, size in cases]
    return pytest.mark.parametrize(("reader", "size"), cases, ids=ids, indirect=["reader"])


@with_readers(FOLDED)
def test_a_folded_event_arrives_whole(sender: Server, reader: Program, size: int) -> None:
    assert_whole(sender.ask(reader, "fold", "orders", size * 1_000_000, within=WITHIN))


@with_readers(EVERYWHERE)
def test_an_event_in_fragments_arrives_whole(sender: Server, reader: Program, size: int) -> None:
    assert_whole(sender.ask(reader, "fragment", "orders", size * 1_000_000, within=WITHIN))


@with_readers(ON_ONE_LINE)
def test_on_one_line_an_event_arrives_whole_where_it_can(sender: Server, reader: Program, size: int) -> None:
    assert_whole(sender.ask(reader, "plain", "orders", size * 1_000_000, within=WITHIN))


@pytest.mark.parametrize("way", ["fold", "fragment"])
@with_readers([case for case in EVERYWHERE if case[1] == 1])
def test_every_character_and_escape_arrives(sender: Server, reader: Program, size: int, way: str) -> None:
    assert_whole(sender.ask(reader, way, "texts", size * 1_000_000, within=WITHIN))


@with_readers([case for case in EVERYWHERE if case[1] == 10])
def test_one_long_string_arrives_in_fragments(sender: Server, reader: Program, size: int) -> None:
    assert_whole(sender.ask(reader, "fragment", "image", size * 1_000_000, within=WITHIN))


@pytest.mark.parametrize("reader", ["aiohttp"], indirect=True)
def test_aiohttp_refuses_a_long_line(sender: Server, reader: Program) -> None:
    assert_whole(sender.ask(reader, "plain", "orders", 100_000, within=WITHIN))
    reading = sender.ask(reader, "plain", "orders", 1_000_000, within=WITHIN)
    assert reading.verdict is Verdict.REFUSED, reading
    assert "LineTooLong" in reading.said or "Chunk too big" in reading.said


@pytest.mark.parametrize("way", ["plain", "fold"])
@pytest.mark.parametrize("reader", [HTTPX2], indirect=True)
def test_httpx2_refuses_an_event_of_more_than_a_mebibyte(sender: Server, reader: Program, way: str) -> None:
    assert_whole(sender.ask(reader, way, "orders", 2**20 - 1000, within=WITHIN))
    for size in (2**20 + 1, 10_000_000, 50_000_000):
        reading = sender.ask(reader, way, "orders", size, within=WITHIN)
        assert reading.verdict is Verdict.REFUSED, reading
        assert reading.said == "SSEError: Server-sent event exceeded the 1048576 byte limit."


# -- Messages, which `onmessage` gets too


MESSAGES = ["small", "in several fragments", "small", "again in several fragments", "bye", "for the listener alone"]
STREAM = b"".join(Fragmenting(over=16, size=24).feed("".join(f"data: {data}\n\n" for data in MESSAGES).encode())).decode()


@pytest.mark.parametrize("origin", ["npm", "node"])
def test_onmessage_gets_each_message_once_whether_in_fragments_or_not(npm_packages: Path, origin: str) -> None:
    assert STREAM.count("event: fragment\n") == 6  # two a message
    options = ["--experimental-eventsource"] if origin == "node" else []
    script = Path(__file__).with_name("messages.mjs")
    command = ["node", *options, str(script), origin, str(CLIENT), STREAM, str(npm_packages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
    if "bad option: --experimental-eventsource" in done.stderr:
        pytest.skip("no EventSource in this Node")
    assert done.stdout, done.stderr
    until_bye = MESSAGES[: MESSAGES.index("bye") + 1]
    assert json.loads(done.stdout) == {"replaced": [], "onmessage": until_bye, "listener": MESSAGES, "left": None}


# -- Types


USE = """
import {FragmentedEventSource, FragmentJoiner} from "./client.js";

const source = new FragmentedEventSource("/events", {withCredentials: true});
const alsoAny: EventSource = source;
source.onmessage = event => event.data.length;
source.onprogress = event => event.loaded / event.total;
const show = (event: ProgressEvent) => console.log(event.loaded / event.total);
source.addEventListener("progress", show);
source.removeEventListener("progress", show);
source.addEventListener("progress", event => console.log((event as ProgressEvent).loaded));
source.addEventListener("progress", (event: MessageEvent) => console.log(event.data));  // the application's own
source.addEventListener("report", event => console.log(event.data));
const whole = new FragmentJoiner().join({type: "message", data: "", lastEventId: ""})?.data.length;
// @ts-expect-error: it is a number
const state: string = source.readyState;
// @ts-expect-error: it has no data
source.onprogress = event => event.data;
"""


def test_typescript_knows_the_types_of_messages_and_of_progress(typescript: Path) -> None:
    (typescript / "client.js").write_bytes(CLIENT.read_bytes())
    (typescript / "use.ts").write_text(USE)
    options = "--noEmit --strict --allowJs --checkJs --target es2022 --module esnext --moduleResolution bundler"
    command = [str(typescript / "node_modules/.bin/tsc"), *options.split(), "use.ts"]
    done = subprocess.run(command, cwd=typescript, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
