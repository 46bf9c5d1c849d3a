// Reads messages with a class that joins fragments, and writes what `onmessage` and a listener got up to the stream's end, as JSON.
//
//     node messages.mjs npm client.js "data: one" FOLDER
//     node --experimental-eventsource messages.mjs node client.js "data: one"
//
// The class is made of npm's, which is in FOLDER, or of Node's own. `onmessage` is removed after the message "bye".

import {readFileSync} from "node:fs";
import {createServer} from "node:http";
import {createRequire} from "node:module";

const [origin, client, stream, folder] = process.argv.slice(2);
const {fragmented} = await import(`data:text/javascript,${encodeURIComponent(readFileSync(client, "utf8"))}`);
const Base = origin === "npm" ? createRequire(`${folder}/`)("eventsource").EventSource : globalThis.EventSource;

const server = createServer((request, response) => {
    response.writeHead(200, {"Content-Type": "text/event-stream"}).end(stream);
});
server.listen(0, "127.0.0.1", () => {
    const source = new (fragmented(Base))(`http://127.0.0.1:${server.address().port}/`);
    const got = {replaced: [], onmessage: [], listener: [], left: source.onmessage};
    source.onmessage = event => got.replaced.push(event.data);
    source.onmessage = function (event) {
        got.onmessage.push(event.data);
        if (event.data === "bye") {
            this.onmessage = "no function";
            got.left = this.onmessage;
        }
    };
    source.addEventListener("message", event => got.listener.push(event.data));
    source.onerror = () => {
        console.log(JSON.stringify(got));
        process.exit();
    };
});
