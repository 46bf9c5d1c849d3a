"""What uvicorn serves: the applications behind a2wsgi, which never tells a WSGI application that its client has left."""

from a2wsgi import WSGIMiddleware

from .applications import app

bridged = WSGIMiddleware(app)  # type: ignore[arg-type]  # its types ask for its own environ
