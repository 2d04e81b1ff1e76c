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
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
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
    const page = await this.#page({ limit });
    if (!page) return;
    const ids = new Set(page.tasks.map(({ task_id: id }) => id));
    const oldest = page.next_after ?? "";
    for (const id of this.frames.keys()) if (id >= oldest && !ids.has(id)) this.#drop(id);
    this.#put(page.tasks);
    if (this.frames.size <= limit) this.#offer(page.next_after);
  }

  async #more() {
    const page = await this.#page({ limit: PAGE, after: this.next });
    if (!page) return;
    this.#put(page.tasks);
    this.#offer(page.next_after);
    this.frames.get(page.tasks[0]?.task_id)?.element.querySelector("button").focus();
  }

  /** @returns {Promise<{tasks: object[], next_after: string | null} | null>} null where another filter was chosen meanwhile */
  async #page(query) {
    const status = this.status;
    const asked = new URLSearchParams({ ...query, ...(status && { status }) });
    const page = await stubborn(() => ask(`tasks?${asked}`));
    return status === this.status ? page : null;
  }

  /** Those that are known are brought up to date where they are; ids are in the order of time. */
  #put(tasks) {
    for (const task of tasks) {
      const known = this.frames.get(task.task_id);
      if (known) known.update(task);
      else this.#insert(task);
    }
    document.querySelector("#history-empty").hidden = this.frames.size > 0;
    this.mark(this.marked);
  }

  #insert(task) {
    const id = task.task_id;
    const frame = new Frame(task, { open: () => this.tell.open(id), remove: () => this.#remove(id) });
    const older = [...this.frames.keys()].filter((other) => other < id).sort().at(-1);
    this.sheet.insertBefore(frame.element, this.frames.get(older)?.element ?? null);
    this.frames.set(id, frame);
  }

  #drop(id) {
    this.frames.get(id).element.remove();
    this.frames.delete(id);
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
    this.#drop(taskId);
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
    this.drop = make("button", { className: "drop", onclick: remove }, "×");
    const edge = make("p", { className: "edge" }, this.words, this.time);
    this.element = make("li", { className: "frame" }, this.view, edge, this.drop);
    for (const name of ["pointerenter", "focus"]) this.view.addEventListener(name, () => this.#play());
    for (const name of ["pointerleave", "blur"]) this.view.addEventListener(name, () => this.#stop());
    this.update(task);
  }

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
