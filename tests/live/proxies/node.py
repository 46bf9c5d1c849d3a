"""Proxies on Node: http-proxy-middleware with Express, and http-proxy."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from benchmarks.readers.harness import install_npm_packages, lacks_node

from .configuration import Configuration, Program, example

_INSTALLING = threading.Lock()  # several proxies may be started at the same time

PACKAGES = ("http-proxy-middleware@4.2.1", "http-proxy@1.18.1", "express@5.3.0", "compression@1.8.2")


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    with _INSTALLING:
        if not (room.parent / "node_modules").exists():
            install_npm_packages(room.parent, PACKAGES)
    (room / "proxy.mjs").write_text(text)
    return [str(room / "proxy.mjs")]


def path_of_node() -> str | None:
    return None if lacks_node() else shutil.which("node")


MIDDLEWARE, PROXY = (
    Program(f"{package.replace('@', ' ')}, Node", path_of_node, "apt-get install nodejs npm", arguments, 0, ("--version",))
    for package in PACKAGES[:2]
)

EXPRESS = """
import express from "express";
import compression from "compression";
import { createProxyMiddleware } from "http-proxy-middleware";

const app = express();
%s
app.use(createProxyMiddleware({ target: "http://127.0.0.1:8000" }));
app.listen(8080, "127.0.0.1");
"""
HTTP_PROXY = """
import http from "node:http";
import httpProxy from "http-proxy";

const proxy = httpProxy.createProxyServer({ target: "http://127.0.0.1:8000" });
proxy.on("error", (error, request, response) => response.writeHead(502).end());
http.createServer((request, response) => proxy.web(request, response)).listen(8080, "127.0.0.1");
"""

NEVER_DISCONNECTS = {"disconnect": "it never closes its connection to the server"}
CONFIGURATIONS = [
    Configuration("Express", MIDDLEWARE, EXPRESS % ""),
    Configuration("compression", MIDDLEWARE, EXPRESS % "app.use(compression({ filter: () => true }));"),
    Configuration("as in its README", PROXY, HTTP_PROXY, NEVER_DISCONNECTS, disconnects=False),
    example(PROXY, "configured", "http-proxy.mjs"),
]
