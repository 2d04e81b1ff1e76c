/** Follows one task to its end: by events as they come, and by asking now and then, which is enough without them. */

import { events } from "./events.js";
import { ask, pause, stubborn } from "./service.js";

const EVERY = 2; // seconds; the place in the queue and the time left are known by asking only

const FINAL = ["finished", "failed", "canceled"];
export const isFinal = ({ status }) => FINAL.includes(status);

/**
 * @param {string} taskId
 * @param {{task: (task: object) => void, preview: () => void}} tell
 * @param {AbortSignal} signal
 * Throws Refused where there is no such task.
 */
export async function follow(taskId, tell, signal) {
  const ended = new AbortController();
  const listening = AbortSignal.any([signal, ended.signal]);
  let latest = null;
  let listener = null;
  let wake = () => {};
  const heard = {
    status: () => wake(),
    progress: ({ status, progress, step }) => tell.task((latest = { ...latest, status, progress, step })),
    preview: () => tell.preview(),
  };
  try {
    for (;;) {
      latest = await stubborn(() => ask(`status/${taskId}`, { signal }), signal);
      tell.task(latest);
      if (isFinal(latest)) return;
      listener ??= listen(taskId, heard, listening).catch(() => {}); // without events, asking goes on
      await Promise.race([pause(EVERY, signal), new Promise((resolve) => (wake = resolve))]);
    }
  } finally {
    ended.abort();
  }
}

async function listen(taskId, heard, signal) {
  let last = null;
  for (;;) {
    await stubborn(async () => {
      for await (const { id, event, data } of events(`status/${taskId}/events`, last, signal)) {
        last = id || last;
        heard[event]?.(JSON.parse(data));
      }
    }, signal);
    await pause(EVERY, signal);
  }
}
