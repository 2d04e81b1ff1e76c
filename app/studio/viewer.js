/** The stage and what is said below it: a picture with its crop, or a task on its way to a clip. */

import { layOut, place } from "./crop.js";
import { make } from "./elements.js";
import { isFinal } from "./follow.js";
import { framesPlayed } from "./length.js";
import { Progress } from "./progress.js";
import { receiptRows } from "./receipt.js";
import { here, send } from "./service.js";
import { left, saying } from "./words.js";

const find = (selector) => document.querySelector(selector);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Viewer {
  constructor() {
    this.stage = find("#stage");
    this.plate = this.stage.querySelector(".plate");
    this.progress = new Progress(find("#progress"));
    this.taskId = null;
  }

  /** Before anything is asked for. `picture` may be null. */
  showPicture(picture, { width, height, fit }) {
    this.taskId = null;
    find("#now").hidden = true;
    document.title = "Kinora";
    const size = picture?.width ? `${picture.width} × ${picture.height} picture` : "HEIC picture";
    this.#edge(picture ? [size, `${width} × ${height} clip`] : ["Kinora", "Safety film"]);
    this.#shape(picture, { width, height, fit });
    this.#show(picture ? "picture" : "nothing");
  }

  /** While the picture is on its way. */
  showSending(picture, frame) {
    this.#begin("sending");
    this.#shape(picture, frame);
    this.#show(picture ? "picture" : "waiting");
    this.#say("Asking for it", "");
    this.#offer({ "#cancel": true, "#progress": true });
  }

  /** @param {string | null} curl what asks for the same */
  showTask(task, picture, curl) {
    if (this.taskId !== task.task_id) this.#begin(task.task_id);
    const { params, status } = task;
    const words = saying(task);
    const figure = this.progress.show(task, words);
    this.#say(words, [figure, left(task.eta_seconds)].filter(Boolean).join(" · "));
    document.title = isFinal(task) ? "Kinora" : `${figure || "…"} Kinora`;
    const rate = `${params.smooth_fps ?? params.fps} a second`;
    const made = [task.engine, ...(task.approximate ? ["approximate"] : []), `${params.width} × ${params.height}`];
    this.#edge([...made, `${framesPlayed(params)} frames`, rate, `seed ${params.seed}`]);
    this.#shape(picture, params);
    this.#picture(task, picture);
    this.#details(task, curl);
    const hasClip = Boolean(task.result_url);
    this.#offer({
      "#cancel": !isFinal(task),
      "#progress": !isFinal(task),
      "#download": hasClip,
      "#again": hasClip,
      "#longer": hasClip,
      "#back": isFinal(task),
      "#receipt": Boolean(task.receipt),
      "#curl": Boolean(curl),
    });
    find("#now").dataset.status = status;
  }

  /** Fetches the frames as they emerge; there may be none yet. They move, which not everybody wants. */
  async showPreview(taskId) {
    if (calm.matches) return;
    const frames = await send(`preview/${taskId}`).then((answer) => answer.blob(), () => null);
    if (!frames || this.taskId !== taskId || this.stage.dataset.shows === "clip") return;
    const image = this.stage.querySelector(".preview");
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(frames);
    this.#show("preview");
  }

  #begin(taskId) {
    this.taskId = taskId;
    this.progress.begin();
    this.stage.querySelector(".clip").removeAttribute("src");
    for (const details of document.querySelectorAll("#now details")) details.open = false;
    find("#now").hidden = false;
    find("#now").dataset.status = "queued";
    find("#trouble").hidden = find("#warnings").hidden = true;
  }

  #picture(task, picture) {
    if (task.result_url) this.#clip(task);
    else if (isFinal(task)) this.#show(picture ? "picture" : "waiting");
    else if (this.stage.dataset.shows !== "preview") this.#show(picture ? "picture" : "waiting");
  }

  #clip({ result_url: link, thumbnail_url: first }) {
    const video = this.stage.querySelector(".clip");
    if (!video.hasAttribute("src")) {
      video.poster = here(first);
      video.src = here(link);
      if (!calm.matches) video.play().catch(() => {}); // a browser may want to be asked first
    }
    find("#download").href = here(link);
    this.#show("clip");
  }

  #details({ task_id: taskId, error, warnings, receipt }, curl) {
    const trouble = find("#trouble");
    trouble.hidden = !error;
    trouble.replaceChildren(...(error ? ["Its code is ", make("code", {}, error.code), ", its task ", make("code", {}, taskId)] : []));
    find("#warnings").hidden = !warnings.length;
    find("#warnings").replaceChildren(...warnings.map((warning) => make("li", {}, warning)));
    find("#receipt dl").replaceChildren(...receiptRows(receipt));
    find("#curl pre").textContent = curl;
    find("#download").download = `kinora-${taskId}.mp4`;
  }

  /** The live region is touched only where there is news. */
  #say(words, figures) {
    if (find("#said").textContent !== words) find("#said").textContent = words;
    find("#figures").textContent = figures;
  }

  #edge(facts) {
    find("#edge").replaceChildren(...facts.map((fact) => make("span", {}, fact)));
  }

  #offer(shown) {
    for (const name of ["#cancel", "#progress", "#download", "#again", "#longer", "#back", "#receipt", "#curl"])
      find(name).hidden = !shown[name];
  }

  #shape(picture, { width, height, fit }) {
    const shown = layOut(picture?.width ? picture : { width, height }, { width, height }, fit);
    this.shapes = { crop: shown.shape, frame: width / height };
    const image = this.stage.querySelector(".picture");
    if (picture && image.src !== picture.url) image.src = picture.url;
    place(image, shown.picture);
    place(this.stage.querySelector(".crop"), shown.frame);
  }

  #show(what) {
    this.stage.dataset.shows = what;
    const whole = what === "clip" || what === "preview" || what === "waiting";
    this.plate.style.setProperty("--shape", whole ? this.shapes.frame : this.shapes.crop);
    for (const name of ["picture", "preview", "clip"]) this.stage.querySelector(`.${name}`).hidden = name !== what;
    this.stage.querySelector(".crop").hidden = what !== "picture";
    this.stage.querySelector(".invitation").hidden = what !== "nothing";
    this.stage.querySelector(".wait-mark").hidden = what !== "waiting";
    if (what !== "clip") this.stage.querySelector(".clip").pause();
  }
}
