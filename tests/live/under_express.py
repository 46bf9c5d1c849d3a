"""Serve an application under mod_wsgi-express, which brings an Apache: ``under_express PORT MODULE:NAME OPTION...``.

It may be installed for another Python, of the same version: ``pip install mod_wsgi-standalone`` compiles both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .under_apache import PYTHON, closed_folders, paths, prefer_debian_s_python

PROGRAM = "mod_wsgi-express"
_PRINTS_WHAT_IT_IS = """
import sys
from importlib.metadata import version
print(f"{sys.version_info.major}.{sys.version_info.minor}", version("mod_wsgi-standalone"), sys._base_executable)
"""


def lacks() -> list[str]:
    """Return what is missing: one for this version of Python, or folders that others than root may read."""
    if shutil.which(PROGRAM) is None:
        return []  # which is said already
    python, _, executable = _what_it_is()
    closed = closed_folders(Path(executable).resolve(), Path(str(shutil.which(PROGRAM))).resolve())
    return closed if python == PYTHON else [f"{PROGRAM} for Python {PYTHON}", *closed]


def version() -> str:
    """Return its version."""
    return _what_it_is()[1]


def _what_it_is() -> list[str]:
    """Return the version of its Python, its own, and its Python's executable."""
    python = Path(str(shutil.which(PROGRAM))).resolve().with_name("python")
    command = [str(python), "-c", _PRINTS_WHAT_IT_IS]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def main(port: str, application: str, *options: str) -> None:
    """Become mod_wsgi-express."""
    prefer_debian_s_python()
    module, _, name = application.partition(":")
    root = Path(f"express-{port}").resolve()
    where = f"--host 127.0.0.1 --port {port} --server-root {root} --log-to-terminal --user nobody --group nogroup --threads 10"
    what = ["--application-type", "module", "--callable-object", name, *(f"--python-path={path}" for path in paths())]
    os.execvp(PROGRAM, [PROGRAM, "start-server", *where.split(), *what, *options, module])


if __name__ == "__main__":
    main(*sys.argv[1:])
