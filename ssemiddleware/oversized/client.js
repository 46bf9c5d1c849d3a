// EventSource for streams of large events: joins the fragments that ssemiddleware's Fragment makes of them.
//
//     import {FragmentedEventSource} from "./client.js";
//     const source = new FragmentedEventSource("/stream");
//     source.onmessage = event => show(JSON.parse(event.data));
//     source.onprogress = event => bar.value = event.loaded / event.total;
//
// The format is described in docs/fragments.md of ssemiddleware. MIT license.

const NUMBER = "(0|[1-9][0-9]{0,17})";
const HEADER = new RegExp(`^${NUMBER}-${NUMBER}/(?:${NUMBER}|\\*)(?: ([^\\n]+))?\\n`);
const CLOSED = 2;

/**
 * An event as it was received; a `MessageEvent` is one.
 * @typedef {{readonly type: string, readonly data: string, readonly lastEventId: string}} ReceivedEvent
 */

/**
 * Joins fragments, in linear time, for a reader of any kind: give it every event, and call `discard` when the connection
 * breaks off. An event of which a fragment is missing is thrown away, and never returned as a whole one.
 */
export class FragmentJoiner {
    /** Bytes of data that have come of the latest event in fragments; 0 when it is incomplete. */
    loaded = 0;
    /** Bytes of data it has in all, 0 as long as that is not known. */
    total = 0;
    /** @type {string[] | null} */
    #pieces = null; // of an unfinished event

    /** Throw away the fragments of an unfinished event. */
    discard() {
        this.#pieces = null;
        this.loaded = this.total = 0;
    }

    /**
     * Return `event` itself if it is no fragment, the whole event if it is the last one, else null.
     * @param {ReceivedEvent} event
     * @returns {ReceivedEvent | null}
     */
    join(event) {
        const header = event.type === "fragment" ? HEADER.exec(event.data) : null;
        if (!header) {
            this.discard();
            return event;
        }
        const [first, last, length] = header.slice(1, 4).map(number => Number(number ?? 0));
        if (first === 0) {
            this.discard();
            this.#pieces = [];
        }
        if (!this.#pieces || first !== this.loaded || last < first || (this.total && this.total !== length)) {
            this.discard();
            return null;
        }
        this.#pieces.push(event.data.slice(header[0].length));
        this.loaded = last + 1;
        this.total = length;
        if (this.loaded !== this.total)
            return null;
        const data = this.#pieces.join("");
        this.#pieces = null;
        return {type: header[4] ?? "message", data, lastEventId: event.lastEventId};
    }
}

/**
 * What the class has beside an `EventSource`, which takes an event of the type `progress` for a message.
 * @typedef {(this: EventSource, event: ProgressEvent) => any} ProgressListener
 * @typedef {(type: "progress", listener: ProgressListener, options?: boolean | AddEventListenerOptions) => void} Listening
 * @typedef {{onprogress: ProgressListener | null, addEventListener: Listening, removeEventListener: Listening}} Progressing
 */

/**
 * Return a class of `Base`, which is an `EventSource`, that asks for fragments and joins them.
 * @template {new (...parameters: any[]) => EventSource} Base
 * @param {Base} Base
 * @returns {(new (...parameters: any[]) => Progressing) & Base}
 */
export function fragmented(Base) {
    return class FragmentedEventSource extends Base {
        #joiner = new FragmentJoiner();
        /** @type {ProgressListener | null} */
        #onprogress = null;
        /** @type {((this: EventSource, event: MessageEvent) => any) | null} */
        #onmessage = null;
        /** @param {MessageEvent} event */
        #toOnmessage = event => this.#onmessage?.(event);

        /**
         * Open the URL with `sse-fragments=1` in its query.
         * @param {any[]} parameters the URL, and the same options as for `Base`
         */
        constructor(...parameters) {
            const [url, ...options] = parameters;
            super(asking(String(url)), ...options);
            // Ours are the first listeners, so no other one gets a fragment.
            super.addEventListener("fragment", event => this.#receive(event));
            super.addEventListener("error", () => this.#joiner.discard());
            super.addEventListener("progress", (/** @type {any} */ event) => {
                if (!(event instanceof MessageEvent)) // the application's own, of the same type
                    this.#onprogress?.(event);
            });
        }

        /**
         * Called with a `ProgressEvent` for each fragment: `loaded` bytes of `total`, which is 0 if it is not known yet. A
         * listener for `progress` gets it too, beside the application's own events of that type, which have `data`.
         */
        get onprogress() {
            return this.#onprogress;
        }

        set onprogress(handler) {
            this.#onprogress = typeof handler === "function" ? handler : null;
        }

        /** As in any `EventSource`, but npm's would not call its own for an event that we dispatch. */
        get onmessage() {
            return this.#onmessage;
        }

        set onmessage(handler) {
            this.#onmessage = typeof handler === "function" ? handler : null;
            if (this.#onmessage)
                super.addEventListener("message", this.#toOnmessage); // which is there once, however often it is added
            else
                super.removeEventListener("message", this.#toOnmessage);
        }

        /** End the stream and an unfinished event; it does not reconnect. */
        close() {
            super.close();
            this.#joiner.discard();
        }

        /** @param {MessageEvent} fragment */
        #receive(fragment) {
            const event = this.#joiner.join(fragment);
            if (event === fragment)
                return; // the application's own, of the same type
            fragment.stopImmediatePropagation();
            if (this.#joiner.loaded)
                this.dispatchEvent(progress(this.#joiner.loaded, this.#joiner.total));
            if (event && this.readyState !== CLOSED)
                this.dispatchEvent(new MessageEvent(event.type, {...event, origin: fragment.origin}));
        }
    };
}

/**
 * A drop-in for `EventSource` that joins fragments and dispatches `progress` events.
 * `fragmented` makes one from another class, for a browser or a program without `EventSource`, or with a better one.
 */
export const FragmentedEventSource = fragmented(globalThis.EventSource ?? class {
    constructor() {
        throw new TypeError("There is no EventSource here: use fragmented() with a class of your own");
    }
});

/**
 * Return `url` with `sse-fragments=1`; the rest of it stays as it is, since it may be signed.
 * @param {string} url
 */
function asking(url) {
    url = url.replace(/^[\0-\x20]+|[\0-\x20]+$/g, ""); // as the URL parser does
    const hash = url.includes("#") ? url.indexOf("#") : url.length;
    // Nothing is the page itself, with its query, which a query of ours alone would replace.
    const before = url.slice(0, hash) || (globalThis.document?.baseURI ?? "").replace(/#.*/, "");
    return `${before}${before.includes("?") ? "&" : "?"}sse-fragments=1${url.slice(hash)}`;
}

/**
 * @param {number} loaded
 * @param {number} total
 */
function progress(loaded, total) {
    const state = {lengthComputable: total > 0, loaded, total};
    if (typeof ProgressEvent === "function")
        return new ProgressEvent("progress", state);
    return Object.assign(new Event("progress"), state); // Node has no ProgressEvent
}
