"""Serve an application under Apache with Debian's mod_wsgi, in a daemon process: ``under_apache PORT MODULE:NAME``.

The module brings Debian's Python, which finds what is installed for this one: they have to be of the same version.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from site import getsitepackages

PACKAGE = "libapache2-mod-wsgi-py3"
MODULES = Path("/usr/lib/apache2/modules")

CONFIGURATION = """
ServerRoot {folder}
ServerName localhost
User nobody
Group nogroup
PidFile apache.pid
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {module}
WSGISocketPrefix {folder}/wsgi
WSGIDaemonProcess shop threads=10 python-path={paths}
WSGIProcessGroup shop
WSGIApplicationGroup %{{GLOBAL}}
WSGIScriptAlias / {script}
<Directory {folder}>
    Require all granted
</Directory>
"""


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
MODULE = MODULES / f"mod_wsgi.so-{PYTHON}"


def lacks() -> list[str]:
    """Return what is missing: Debian's package, or folders that others than root may read."""
    closed = closed_folders()
    return closed if MODULE.exists() else [f"{PACKAGE} for Python {PYTHON}", *closed]


def closed_folders(*more: Path) -> list[str]:
    """Return what opens the folders of the tests, of what they need and of *more* to Apache, which does not serve as root."""
    paths = (Path(__file__).resolve(), *(Path(each) for each in getsitepackages() if Path(each).exists()), *more)
    folders = {folder for path in paths for folder in path.parents}
    return [f"chmod o+x {folder}" for folder in sorted(folders) if os.geteuid() == 0 and not folder.stat().st_mode & 1]


def version() -> str:
    """Return the version of mod_wsgi, as Debian names it."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", PACKAGE]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def paths() -> list[str]:
    """Return where the application is, and what it needs."""
    return [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *getsitepackages()]


def prefer_debian_s_python() -> None:
    """Put Debian's Python first in the PATH: its library takes the modules of the first ``python3`` there for its own."""
    os.environ["PATH"] = f"/usr/bin{os.pathsep}{os.environ['PATH']}"


def main(port: str, application: str) -> None:
    """Become Apache, which does not serve as root."""
    prefer_debian_s_python()
    folder = Path(f"apache-{port}").resolve()
    folder.mkdir()
    script, configuration = folder / "shop.wsgi", folder / "apache.conf"
    module_of_application, _, name = application.partition(":")
    script.write_text(f"from {module_of_application} import {name} as application\n", encoding="utf-8")
    places = os.pathsep.join(paths())
    text = CONFIGURATION.format(folder=folder, port=port, modules=MODULES, module=MODULE, paths=places, script=script)
    configuration.write_text(text, encoding="utf-8")
    os.execvp("apache2", ["apache2", "-f", str(configuration), "-DFOREGROUND"])


if __name__ == "__main__":
    main(*sys.argv[1:])
