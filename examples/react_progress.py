"""React in one file, without a build: a job's progress through an EventSource. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples react_progress:app

and open http://127.0.0.1:8000/. React 18 is the last version that a page can load as it is.
"""

from collections.abc import Iterator

from flask import Flask, Response, request

from ssemiddleware import Event, SSEMiddleware

PAGE = """<!doctype html>
<title>Progress</title>
<div id="root"></div>
<script src="https://cdn.jsdelivr.net/npm/react@18.3.1/umd/react.production.min.js" crossorigin="anonymous"
  integrity="sha384-DGyLxAyjq0f9SPpVevD6IgztCFlnMF6oW/XQGmfe+IsZ8TqEiDrcHkMLKI6fiB/Z"></script>
<script src="https://cdn.jsdelivr.net/npm/react-dom@18.3.1/umd/react-dom.production.min.js" crossorigin="anonymous"
  integrity="sha384-gTGxhz21lVGYNMcdJOyq01Edg0jhn/c22nsx0kyqP0TxaV5WVdsSH1fSDUf5YJj1"></script>
<script>
function Progress({url}) {
  const [percent, setPercent] = React.useState(0);
  React.useEffect(() => {
    const source = new EventSource(url);
    source.onmessage = event => setPercent(JSON.parse(event.data).percent);
    source.addEventListener("done", () => source.close());  // else it would connect again
    return () => source.close();  // when the component leaves the page
  }, [url]);
  return React.createElement("p", null, React.createElement("progress", {value: percent, max: 100}), ` ${percent} %`);
}
ReactDOM.createRoot(document.getElementById("root")).render(React.createElement(Progress, {url: "/progress"}));
</script>
"""

app = Flask(__name__)


@app.get("/")
def page() -> str:
    """Show the page."""
    return PAGE


@app.get("/progress")
def progress() -> Response:
    """Send how far the job is, and that it is done."""
    stream = request.environ["ssemiddleware.stream"]

    def work() -> Iterator[bytes]:
        for percent in range(0, 101, 10):
            yield bytes(Event(json={"percent": percent}))
            if stream.closed.wait(0.2):
                return
        yield bytes(Event("", event="done"))

    return Response(work(), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
