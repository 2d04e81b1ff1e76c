/** The page: what somebody does in one part, told to the others. */

import { copy } from "./clipboard.js";
import { asCurl } from "./curl.js";
import { follow, isFinal } from "./follow.js";
import { History } from "./history.js";
import { forgetKey, key } from "./key.js";
import { Maker } from "./maker.js";
import { recall, remember, rememberPicture } from "./memory.js";
import { ask, connection, stubborn } from "./service.js";
import { Viewer } from "./viewer.js";

const find = (selector) => document.querySelector(selector);
const viewer = new Viewer();
const maker = new Maker();
const history = new History({ open: (taskId) => open(taskId), removed: (taskId) => shown?.task_id === taskId && putAside() });

let shown = null; // the task on the stage, as it was last told
let attention = new AbortController(); // ends what went on for what was on the stage before

/** Turns to something else; what the service was asked to make goes on without us. */
function turn() {
  attention.abort();
  attention = new AbortController();
  shown = null;
  return attention.signal;
}

function putAside() {
  turn();
  remember("task", null);
  remember("pending", null);
  history.mark(null);
  viewer.showPicture(maker.picture, maker.settings.values);
}

/** @param {string} [picture] the name of the picture's file, where it is the one in the form */
async function open(taskId, picture = madeHere(taskId)) {
  const signal = turn();
  remember("task", { id: taskId, picture });
  history.mark(taskId);
  let last = null;
  const tell = {
    task(task) {
      shown = task;
      const ours = picture && maker.picture?.file.name === picture ? maker.picture : null;
      viewer.showTask(task, ours, asCurl(task, maker.settings.named(task.engine), picture ?? "picture.jpg"));
      if (task.status !== last) history.refresh();
      last = task.status;
    },
    preview: () => viewer.showPreview(taskId),
  };
  try {
    await follow(taskId, tell, signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.code !== "task_not_found") throw error;
    putAside();
  }
}

function madeHere(taskId) {
  const { id, picture } = recall("task") ?? {};
  return id === taskId ? picture : null;
}

/** Asks for a task until there is an answer, over reloads too: the key makes it one task however often it is asked. */
async function request(pending) {
  const signal = turn();
  remember("pending", pending);
  viewer.showSending(pending.path ? null : maker.picture, pending.frame);
  try {
    const { task_id: id, id: videoId } = await stubborn(() => post(pending, signal), signal);
    remember("pending", null);
    await open(id ?? videoId, pending.picture);
  } catch (error) {
    if (error.name === "AbortError") return;
    remember("pending", null);
    if (pending.from) open(pending.from);
    else putAside();
    maker.complain(error);
  }
}

async function post({ path = "generate", json, fields = {}, key: once }, signal) {
  const headers = { "Idempotency-Key": once };
  if (json) return ask(path, { json, headers, signal });
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  form.append("file", maker.picture.file);
  return ask(path, { form, headers, signal });
}

const drawn = () => crypto.getRandomValues(new Uint32Array(4));
const once = () => Array.from(drawn(), (part) => part.toString(16).padStart(8, "0")).join(""); // randomUUID wants TLS

async function makeClip(event) {
  event.preventDefault();
  if (!maker.check()) return;
  await maker.kept;
  const { width, height, fit } = maker.settings.values;
  request({ key: once(), fields: maker.settings.fields, frame: { width, height, fit }, picture: maker.picture.file.name });
  find("#now").focus();
}

/** Asks for another clip of what the one on the stage was made of. */
function derive(path, json) {
  const { task_id: from, params } = shown;
  request({ key: once(), path, json, frame: params, picture: madeHere(from), from });
  find("#now").focus();
}

function again() {
  const { minimum, maximum } = maker.settings.named(shown.engine).limits.seed;
  derive(`v1/videos/${shown.task_id}/remix`, { seed: minimum + (drawn()[0] % (maximum - minimum + 1)) });
}

/** By as many frames as it was asked for with; whole seconds may be more of them than the engine makes. */
function longer() {
  derive("v1/videos/extensions", { video: { id: shown.task_id } });
}

async function cancel() {
  if (!shown) return putAside(); // it was not accepted yet, or nobody said so
  const task = await stubborn(() => ask(`cancel/${shown.task_id}`, { method: "POST" }));
  open(task.task_id);
}

/** Leaves nothing behind for whoever comes next. */
async function leave() {
  putAside();
  await rememberPicture(null);
  forgetKey();
}

function watchConnection() {
  const line = find("#connection");
  connection.addEventListener("away", () => (line.textContent = "Connection lost. Trying again …"));
  connection.addEventListener("back", () => {
    if (line.textContent) history.refresh();
    line.textContent = "";
  });
}

function showKey() {
  find("#forget-key").hidden = !key();
}

/** What was on the stage before a reload. */
function resume() {
  const pending = recall("pending");
  const { id, picture } = recall("task") ?? {};
  if (pending && (pending.path || maker.picture)) request(pending);
  else if (id) open(id, picture);
  else putAside();
}

async function begin() {
  watchConnection();
  showKey();
  document.addEventListener("key", showKey);
  find("#forget-key").addEventListener("click", leave);
  find("#maker").addEventListener("submit", makeClip);
  find("#cancel").addEventListener("click", cancel);
  find("#again").addEventListener("click", again);
  find("#longer").addEventListener("click", longer);
  find("#back").addEventListener("click", putAside);
  find("#curl .copy").addEventListener("click", ({ target }) => copy(find("#curl pre"), target));
  await Promise.all([maker.begin(), history.refresh()]);
  resume();
  maker.addEventListener("picture", putAside);
  maker.addEventListener("frame", () => (!shown || isFinal(shown)) && putAside());
  setInterval(() => document.hidden || maker.refresh(), 10_000);
}

begin();
