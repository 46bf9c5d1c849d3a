"""Packages of npm for a test; where it cannot have them, it says why and is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.readers.harness import NODE_REMEDY, install_npm_packages, lacks_node


def folder_with(packages: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages in its ``node_modules``."""
    folder = tmp_path_factory.mktemp("npm")
    reason = f"no {' and no '.join(missing)}: {NODE_REMEDY}" if (missing := lacks_node()) else ""
    if not reason:
        try:
            install_npm_packages(folder, packages)
        except RuntimeError as error:
            reason = str(error)
    if reason and os.environ.get("SSEMIDDLEWARE_REQUIRE_NODE"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return folder
