/** Server-sent events, read by fetch: EventSource cannot send a key. */

import { send } from "./service.js";

/**
 * @param {string} path
 * @param {string | null} after the id of the last event that was seen
 * @param {AbortSignal} signal
 * @yields {{id: string, event: string, data: string}} until the service ends it or the connection breaks
 */
export async function* events(path, after, signal) {
  const headers = { Accept: "text/event-stream", ...(after && { "Last-Event-ID": after }) };
  const { body } = await send(path, { headers, signal });
  if (!body) return; // 204: there are no more
  let text = "";
  for await (const piece of pieces(body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (text + piece).split(/\r?\n\r?\n/);
    text = blocks.pop();
    yield* blocks.map(parse).filter((event) => event.data);
  }
}

/** Not every browser can iterate over a stream. One that breaks off has ended too. */
async function* pieces(stream) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    yield value;
  }
}

function parse(block) {
  const event = { id: "", event: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name === "data" && event.data) event.data += "\n";
    if (name in event) event[name] = (name === "data" ? event.data : "") + value;
  }
  return event;
}
