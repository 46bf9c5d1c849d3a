"""gunicorn for event streams: ``gunicorn --config gunicorn.conf.py "ssemiddleware:wrap('shop.web:create_app()')"``."""

bind = "127.0.0.1:8000"  # under systemd with a socket (shop.socket) that socket is taken instead
worker_class = "gthread"
workers = 2
threads = 200  # each open stream takes one; a quarter is left to other requests
graceful_timeout = 30  # seconds; longer than your longest answer, since only EventSources' streams end before
timeout = 60  # seconds
backlog = 2048  # connections that wait while gunicorn restarts; at most net.core.somaxconn
