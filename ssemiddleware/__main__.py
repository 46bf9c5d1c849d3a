"""The command line: `doctor` says what is wrong with a stream, `lint` which mistakes are in its bytes.

`demo` shows bare and wrapped event streams in a browser, `client-js` prints the reader of fragments.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from .commands import doctor, lint

CLIENT = Path(__file__).parent / "oversized" / "client.js"


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the command that the arguments name, and return its exit status. `demo` exits with 1 and one line on stderr."""
    options = command_line().parse_args(arguments)
    status: int | None = options.run(options)
    return status


def command_line() -> argparse.ArgumentParser:
    """Describe the commands; each sets `run` to the function that takes its options."""
    parser = argparse.ArgumentParser(prog="ssemiddleware", description="Server-Sent Events that work under WSGI.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor.add_to(commands.add_parser("doctor", help="watch an event stream, and say what is wrong with it and what cures it"))
    lint.add_to(commands.add_parser("lint", help="print the mistakes in the bytes of an event stream"))
    demo = commands.add_parser("demo", help="serve a page that shows bare and wrapped event streams side by side")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    demo.add_argument("--port", default=8000, type=port_number, help="port to listen on (default: %(default)s)")
    demo.set_defaults(run=serve_demo)
    client = commands.add_parser("client-js", help="print the JavaScript module that joins fragments in browsers")
    client.set_defaults(run=print_client)
    return parser


def port_number(text: str) -> int:
    """Read a port; 0 is refused, because the address is printed before the server listens."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, got {text!r}")


def print_client(_options: argparse.Namespace) -> None:
    """Write the module as it is, for a page's static files."""
    sys.stdout.write(CLIENT.read_text("utf-8"))


def serve_demo(options: argparse.Namespace) -> None:
    """Replace this process by the demo's server, which Ctrl-C stops. Returns only by an exit."""
    require_demo_extra()
    require_free_port(options.host, options.port)
    print(welcome(options.host, options.port), flush=True)
    command = server_command(options.host, options.port)
    os.execv(command[0], command)


def require_demo_extra() -> None:
    """Exit unless Flask and gunicorn can be imported; without Django the page says so in its own place."""
    missing = [name for name in ("flask", "gunicorn") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'The demo needs {" and ".join(missing)}: pip install "ssemiddleware[demo]"')


def require_free_port(host: str, port: int) -> None:
    """Exit if the server could not listen there; gunicorn itself would try five times and then print a log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {port} on {host} is in use: choose another one with --port")
        sys.exit(f"Cannot listen: {error.strerror}; choose others with --host and --port")


def welcome(host: str, port: int) -> str:
    """Return what to open and what to type in another terminal."""
    origin = f"http://{address(reachable(host), port)}"
    curl = "curl -N -H 'Accept: text/event-stream' -H 'Cache-Control: no-cache'"  # as an EventSource asks
    return (
        f"The demo is at {origin}/ (Ctrl-C stops it). In another terminal:\n"
        f"  {curl} {origin}/bare/ticker\n"
        f"  {curl} {origin}/wrapped/ticker"
    )


def reachable(host: str) -> str:
    """Return a host that a browser can open: the two wildcards are addresses to listen on, not to connect to."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def address(host: str, port: int) -> str:
    """Join host and port as URLs and gunicorn's `--bind` want them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_command(host: str, port: int) -> list[str]:
    """Return the command that serves the demo with this very Python."""
    settings = "python:ssemiddleware.demo.gunicorn_settings"
    server = [sys.executable, "-m", "gunicorn", "--config", settings, "--bind", address(host, port)]
    return [*server, "ssemiddleware.demo:create_app()"]


if __name__ == "__main__":
    sys.exit(main())
