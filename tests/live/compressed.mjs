// Reads an event stream and writes what came, as JSON: [milliseconds, data], by Node's fetch or npm's EventSource in FOLDER.
//
//     node compressed.mjs fetch http://127.0.0.1:8000/events
//     node compressed.mjs eventsource http://127.0.0.1:8000/events FOLDER

import {createRequire} from "node:module";

const [reader, url, folder] = process.argv.slice(2);
const came = [];
const note = data => came.push([performance.now(), data]);

if (reader === "fetch") {
    const response = await fetch(url, {headers: {Accept: "text/event-stream"}});
    const decoder = new TextDecoder();
    for await (const part of response.body)
        note(decoder.decode(part, {stream: true}));
    console.log(JSON.stringify([response.headers.get("content-encoding"), came]));
} else {
    const {EventSource} = createRequire(`${folder}/`)("eventsource");
    let encoding;
    const source = new EventSource(url, {
        fetch: async (input, init) => {
            const response = await fetch(input, init);
            encoding = response.headers.get("content-encoding");
            return response;
        },
    });
    source.onmessage = event => note(event.data);
    source.onerror = () => {
        console.log(JSON.stringify([encoding, came]));
        process.exit();
    };
}
