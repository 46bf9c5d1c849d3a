"""gunicorn's settings for the demo. Naming a file of our own keeps out a `gunicorn.conf.py` of the current directory."""

import os
import time

worker_class = "gthread"
workers = 1  # one process, so that the memory graph shows all of it
threads = 64  # each open stream takes one
graceful_timeout = 2  # seconds; an endless bare stream does not notice a stop, and has to be cut
loglevel = "warning"  # leaves the address that was printed as the last line
control_socket_disable = True  # gunicorn 25.1 and later would put a socket into the home directory


def worker_int(worker: object) -> None:
    """Leave soon on Ctrl-C: Python would wait for the threads of bare streams, and these never end."""
    time.sleep(1)  # in which wrapped streams end; less than graceful_timeout
    os._exit(0)
