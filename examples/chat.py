"""Flask: a chat that a page reads with fetch(), since an EventSource cannot send a POST. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples chat:app

and open http://127.0.0.1:8000/.
"""

from collections.abc import Iterator

from flask import Flask, Response, request

from ssemiddleware import Event, SSEMiddleware

PAGE = """<!doctype html>
<title>Chat</title>
<form><input name="question" value="How are you?"> <button>Ask</button></form>
<p id="answer"></p>
<script type="module">
const form = document.querySelector("form"), answer = document.querySelector("#answer");
form.onsubmit = async submit => {
  submit.preventDefault();
  answer.textContent = "";
  const response = await fetch("/chat", {
    method: "POST", body: form.question.value,
    headers: {"Accept": "text/event-stream"},  // so that the stream gets heartbeats
  });
  if (!response.ok) {  // 503: too many streams are open
    answer.textContent = `Please try again later (${response.status}).`;
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", isWhole = false;
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (rest + read.value).split("\\n");
    rest = lines.pop();  // not all of it has come
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;  // a blank line, or a heartbeat
      const {token, done} = JSON.parse(line.slice(6));
      if (done) isWhole = true;
      else answer.textContent += token;
    }
  }
  if (!isWhole) answer.textContent += "... (the connection was cut)";
};
</script>
"""

app = Flask(__name__)


@app.get("/")
def page() -> str:
    """Show the page."""
    return PAGE


@app.post("/chat")
def chat() -> Response:
    """Answer a question word by word."""
    stream = request.environ["ssemiddleware.stream"]
    question = request.get_data(as_text=True)

    def answer() -> Iterator[bytes]:
        for word in f"You asked: {question} I think so.".split():
            if stream.closed.wait(0.1):  # the client is gone: save the rest of the work
                return
            yield bytes(Event(json={"token": word + " "}))
        yield bytes(Event(json={"done": True}))  # an answer without it is not the whole one

    return Response(answer(), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
