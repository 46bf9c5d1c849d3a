// Reads one event with one of npm's packages, and writes how long it took from the request and what it was, as JSON.
//
//     node node_reader.mjs eventsource http://127.0.0.1:8000/fold/orders/10000000 FOLDER
//     node node_reader.mjs eventsource http://127.0.0.1:8000/fragment/orders/10000000?sse-fragments=1 FOLDER client.js
//
// FOLDER is where npm has installed the packages. With client.js the reader joins fragments.

import {createHash} from "node:crypto";
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";

const [reader, url, folder, client] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
// As a data: URL it is a module whatever its name and whatever this Node takes a .js for.
const joining = client && await import(`data:text/javascript,${encodeURIComponent(readFileSync(client, "utf8"))}`);

function withEventSource() {
    const {EventSource} = require("eventsource");
    return () => new Promise((resolve, reject) => {
        const source = new (joining ? joining.fragmented(EventSource) : EventSource)(url);
        source.addEventListener("report", event => {
            source.close();
            resolve(event);
        });
        source.addEventListener("error", error => {
            source.close();
            reject(new Error(`an error event: ${error.message}`));
        });
    });
}

function withParser() {
    const {createParser} = require("eventsource-parser");
    return async () => {
        const joiner = joining ? new joining.FragmentJoiner() : {join: event => event};
        let found;
        const parser = createParser({onEvent: event => {
            const {event: type = "message", id: lastEventId = "", data} = event;
            found ??= joiner.join({type, lastEventId, data});
        }});
        const response = await fetch(url, {headers: {Accept: "text/event-stream"}});
        const decoder = new TextDecoder();
        for await (const chunk of response.body) {
            parser.feed(decoder.decode(chunk, {stream: true}));
            if (found)
                return found;
        }
        throw new Error("the stream ended without the event");
    };
}

function reported(milliseconds, {type, lastEventId: id, data}) {
    JSON.parse(data);
    const text = Buffer.from(data.replaceAll("\n", ""));
    const sha256 = createHash("sha256").update(text).digest("hex");
    return {milliseconds, type, id, lines: data.split("\n").length, size: text.length, sha256};
}

const read = {"eventsource": withEventSource, "eventsource-parser": withParser}[reader]();
try {
    const began = performance.now();
    const event = await read();
    console.log(JSON.stringify(reported(performance.now() - began, event)));
} catch (error) {
    console.log(JSON.stringify({error: String(error)}));
}
process.exit();
