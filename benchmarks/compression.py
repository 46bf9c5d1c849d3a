"""What compressing each event costs and gains: ratio, CPU time, memory a stream, by encoding and its settings.

`ssemiddleware.compression` has its encodings, their order and their settings from this table: a stream has to take less than
64 KB. Memory is that of a stream with two heartbeats, and of one with 50 LLM tokens and a list. Run it with
``python -m benchmarks.compression``; it needs brotli, and zstd before CPython 3.14, for their rows.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import psutil

from ssemiddleware.compression import encoders

from .machine import facts

Encode = Callable[[bytes], bytes]  # an event, flushed

STREAMS = 300  # whose memory is measured
ROUNDS = 3
HEARTBEAT = b":\n"


def ticks() -> Iterator[bytes]:
    """Yield small events of JSON that resemble each other."""
    chosen, price = random.Random(1), 100.0
    for number in range(3000):
        price += chosen.uniform(-0.5, 0.5)
        tick = {"symbol": chosen.choice(("ACME", "INIT", "SOLO")), "price": round(price, 2), "seq": number}
        yield b"data: %s\n\n" % json.dumps(tick).encode()


def tokens() -> Iterator[bytes]:
    """Yield the events of a language model's answer: one word each, in JSON that repeats."""
    for number, word in enumerate(islice(_words(2), 3000)):
        delta = {"index": 0, "delta": {"content": f" {word}"}, "finish_reason": None}
        answer = {"id": "chatcmpl-9f8e7d6c5b4a", "object": "chat.completion.chunk", "created": number // 50, "choices": [delta]}
        yield b"data: %s\n\n" % json.dumps(answer).encode()


def lists() -> Iterator[bytes]:
    """Yield events of about 10 KB of JSON."""
    chosen, words = random.Random(3), _words(4)
    for _ in range(150):
        rows = [
            {"id": chosen.randrange(10**6), "note": " ".join(islice(words, 8)), "price": round(chosen.uniform(1, 99), 2)}
            for _ in range(90)
        ]
        yield b"data: %s\n\n" % json.dumps(rows).encode()


def _words(seed: int) -> Iterator[str]:
    """Yield words of a language with 2000 of them, some often and most seldom, as in a text."""
    chosen = random.Random(seed)
    syllables = ("ta", "re", "mi", "so", "ken", "lu", "bar", "ing", "ed", "st", "o", "an")
    words = ["".join(chosen.choices(syllables, k=chosen.randint(1, 4))) for _ in range(2000)]
    while True:
        yield words[min(int(chosen.paretovariate(0.7)) - 1, 1999)]


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {"ticks, 60 bytes": ticks, "LLM tokens": tokens, "lists, 10 KB": lists}


def gzip(level: int, window_bits: int, memory_level: int) -> Encode:
    compressor = zlib.compressobj(level, zlib.DEFLATED, 16 + window_bits, memory_level)
    return lambda event: compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)


def zstd(strategy: str, window_log: int, hash_log: int, chain_log: int) -> Encode:
    """The standard library's from CPython 3.14 on, otherwise that of `backports.zstd`."""
    from ssemiddleware.compression.zstd import zstd as module

    parameters = module.CompressionParameter
    compressor: Any = module.ZstdCompressor(
        options={
            parameters.strategy: module.Strategy[strategy], parameters.window_log: window_log, parameters.hash_log: hash_log,
            parameters.chain_log: chain_log, parameters.search_log: 4, parameters.min_match: 4, parameters.target_length: 64,
        }
    )  # fmt: skip
    return lambda event: bytes(compressor.compress(event, compressor.FLUSH_BLOCK))


def brotli(quality: int, window_bits: int) -> Encode:
    import brotli as package

    compressor = package.Compressor(mode=package.MODE_TEXT, quality=quality, lgwin=window_bits)
    return lambda event: compressor.process(event) + compressor.flush()


def used(encoding: str) -> Encode:
    """Return what the middleware does."""
    encoder = encoders()[encoding]()
    return lambda event: encoder.encode(event) + encoder.flush()


def ways() -> Mapping[str, Callable[[], Encode]]:
    """Return what is compared, by the name that the table gives it."""
    compared: dict[str, Callable[[], Encode]] = {f"{encoding}, as used": partial(used, encoding) for encoding in encoders()}
    for setting in ((1, 12, 5), (4, 12, 5), (6, 12, 4), (6, 12, 6), (6, 13, 5), (9, 12, 5), (6, 15, 8)):
        compared["gzip, level {}, window {}, memory {}".format(*setting)] = partial(gzip, *setting)
    if "zstd" in encoders():
        for strategy, *logs in (
            ("greedy", 12, 9, 10), ("lazy", 11, 9, 10), ("lazy", 12, 10, 11), ("lazy", 13, 9, 10), ("lazy2", 12, 9, 10),
            ("btultra", 10, 8, 8), ("lazy2", 17, 15, 15), ("btultra2", 17, 17, 17),
        ):  # fmt: skip
            compared["zstd, {}, window {}, hash {}, chain {}".format(strategy, *logs)] = partial(zstd, strategy, *logs)
    if importlib.util.find_spec("brotli"):
        for quality, window in ((0, 10), (1, 10), (1, 16), (2, 10), (3, 10), (4, 10), (5, 10), (5, 16), (11, 16)):
            compared[f"br, quality {quality}, window {window}"] = partial(brotli, quality, window)
    return compared


def cost(make: Callable[[], Encode], events: Sequence[bytes]) -> tuple[float, float]:
    """Return how many times fewer bytes are sent, and the CPU time as a multiple of that of gzip as used.

    Both run in turn, and the least time of each counts, since other programs only ever add to it.
    """
    times: tuple[list[float], list[float]] = [], []
    sent = 0
    for _ in range(ROUNDS):
        for encode, spent in zip((used("gzip"), make()), times, strict=True):
            begun = time.process_time()
            sent = sum(len(encode(event)) for event in events)
            spent.append(time.process_time() - begun)
    return sum(map(len, events)) / sent, min(times[1]) / min(times[0])


def kilobytes_a_stream(make: Callable[[], Encode], events: Sequence[bytes]) -> float:
    """Return how much a stream takes that has sent *events*: in a process of its own, where nothing was freed before."""
    gc.collect()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            process, streams = psutil.Process(), []
            warm = make()  # its library's own pages do not count
            for event in events:
                warm(event)
            before = process.memory_full_info().uss
            for _ in range(STREAMS):
                streams.append(make())
                for event in events:
                    streams[-1](event)
            os.write(writing, b"%d" % (process.memory_full_info().uss - before))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as gained:
        return int(gained.read()) / STREAMS / 1000


def main() -> None:
    """Print the table."""
    kinds = {name: list(kind()) for name, kind in KINDS.items()}
    print("\n".join(facts()))
    print(f"\n| encoding | KB a stream | {' | '.join(kinds)} | opening, heartbeat |\n|---|---|{'---|' * len(kinds)}---|")
    for name, make in ways().items():
        silent = kilobytes_a_stream(make, [HEARTBEAT, HEARTBEAT])
        memory = kilobytes_a_stream(make, [*kinds["LLM tokens"][:50], kinds["lists, 10 KB"][0]])
        encode = make()
        ours = f"{len(encode(HEARTBEAT))}, {len(encode(HEARTBEAT))}"
        cells = " | ".join("{:.2f}x, {:.2f}".format(*cost(make, events)) for events in kinds.values())
        print(f"| {name} | {silent:.0f} to {memory:.0f} | {cells} | {ours} bytes |", flush=True)


if __name__ == "__main__":
    main()
