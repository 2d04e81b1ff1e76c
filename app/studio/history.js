/** The tasks so far, newest first, page by page: thumbnails that play while they are pointed at. */

import { keys, make } from "./elements.js";
import { isFinal } from "./follow.js";
import { ask, here, stubborn } from "./service.js";
import { ago, state } from "./words.js";

const PAGE = 48;
const MOST = 200; // that can be asked for at once
const EVERY = 4000; // ms, while something in the list goes on

const FILTERS = ["", "queued", "started", "finished", "failed", "canceled"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class History {
  /** @param {{open: (taskId: string) => void, removed: (taskId: string) => void}} tell */
  constructor(tell) {
    this.tell = tell;
    this.sheet = document.querySelector("#sheet");
    this.older = document.querySelector("#older");
    this.status = "";
    this.frames = new Map(); // by task id
    this.older.addEventListener("click", () => this.#more());
    this.#filters();
    setInterval(() => this.#goesOn() && this.refresh(), EVERY);
  }

  mark(taskId) {
    for (const [id, frame] of this.frames) frame.element.classList.toggle("marked", id === taskId);
    this.marked = taskId;
  }

  /** Asks anew for as much as is shown; what is wanted meanwhile comes in one go after it. */
  async refresh() {
    this.wanted = true;
    if (this.busy) return;
    this.busy = true;
    while (this.wanted) {
      this.wanted = false;
      await this.#load();
    }
    this.busy = false;
  }

  async #load() {
    const limit = Math.min(MOST, Math.max(PAGE, this.frames.size));
    const status = this.status;
    const { tasks, next_after: next } = await stubborn(() => ask(`tasks?${this.#query({ limit })}`));
    if (status !== this.status) return; // another filter was chosen meanwhile
    this.#put(tasks, "start");
    if (this.frames.size <= limit) this.#offer(next);
  }

  async #more() {
    const { tasks, next_after: next } = await ask(`tasks?${this.#query({ limit: PAGE, after: this.next })}`);
    this.#put(tasks, "end");
    this.#offer(next);
    this.frames.get(tasks[0]?.task_id)?.element.querySelector("button").focus();
  }

  #query({ limit, after }) {
    return new URLSearchParams({ limit, ...(after && { after }), ...(this.status && { status: this.status }) });
  }

  /** Those that are known are brought up to date where they are. */
  #put(tasks, where) {
    const missing = tasks.filter((task) => !this.frames.get(task.task_id)?.update(task)).map((task) => this.#frame(task));
    if (where === "start") this.sheet.prepend(...missing);
    else this.sheet.append(...missing);
    const isEmpty = !this.frames.size;
    document.querySelector("#history-empty").hidden = !isEmpty;
    if (this.marked) this.mark(this.marked);
  }

  #frame(task) {
    const frame = new Frame(task, { open: () => this.tell.open(task.task_id), remove: () => this.#remove(task.task_id) });
    this.frames.set(task.task_id, frame);
    return frame.element;
  }

  #offer(next) {
    this.next = next;
    this.older.hidden = !next;
  }

  async #remove(taskId) {
    if (!(await isSure())) return;
    await stubborn(() => ask(`tasks/${taskId}`, { method: "DELETE" }));
    const { element } = this.frames.get(taskId);
    const neighbour = element.nextElementSibling ?? element.previousElementSibling;
    element.remove();
    this.frames.delete(taskId);
    neighbour?.querySelector("button").focus();
    this.tell.removed(taskId);
  }

  #filters() {
    const options = FILTERS.map((value) => ({ value, text: state(value) || "all" }));
    const choose = (status) => {
      this.status = status;
      this.frames.clear();
      this.sheet.replaceChildren();
      this.refresh();
    };
    document.querySelector("#filter").replaceWith(keys({ legend: "Show", name: "status", options, chosen: "", choose }));
  }

  #goesOn() {
    return !document.hidden && [...this.frames.values()].some(({ task }) => !isFinal(task));
  }
}

/** One task of the list. */
class Frame {
  constructor(task, { open, remove }) {
    this.image = make("img", { alt: "", loading: "lazy", decoding: "async" });
    this.view = make("button", { className: "view", onclick: open }, this.image);
    this.words = make("span");
    this.time = make("time");
    const drop = make("button", { className: "drop", onclick: remove, "aria-label": "Delete" }, "×");
    this.element = make("li", { className: "frame" }, this.view, make("p", { className: "edge" }, this.words, this.time), drop);
    this.drop = drop;
    for (const name of ["pointerenter", "focus"]) this.view.addEventListener(name, () => this.#play());
    for (const name of ["pointerleave", "blur"]) this.view.addEventListener(name, () => this.#stop());
    this.update(task);
  }

  /** @returns {true} */
  update(task) {
    this.task = task;
    const { engine, status, created_at: created, thumbnail_url: first, error } = task;
    const now = status === "finished" && !first ? "deleted" : state(status);
    this.element.dataset.status = status;
    this.element.classList.toggle("empty", !first);
    if (first && !this.image.src) this.image.src = here(first);
    this.words.textContent = first ? engine : now;
    this.time.dateTime = created;
    this.time.textContent = ago(created);
    const name = `${engine}, ${now}, ${ago(created)}`;
    this.view.setAttribute("aria-label", `Show ${name}`);
    this.view.title = error?.message ?? "";
    this.drop.setAttribute("aria-label", `Delete ${name}`);
    return true;
  }

  #play() {
    if (!this.task.result_url || calm.matches || this.video) return;
    this.video = make("video", { muted: true, loop: true, playsInline: true, src: here(this.task.result_url), "aria-hidden": "true" });
    this.view.append(this.video);
    this.video.play().catch(() => {}); // it may be gone already
  }

  #stop() {
    this.video?.remove();
    this.video = null;
  }
}

async function isSure() {
  const dialog = document.querySelector("#delete-dialog");
  dialog.returnValue = "keep";
  dialog.showModal();
  await new Promise((resolve) => (dialog.onclose = resolve));
  return dialog.returnValue === "delete";
}
