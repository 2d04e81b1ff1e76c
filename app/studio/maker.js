/** The form: a picture, an engine, and what may be set for it, all from GET /engines. */

import { control } from "./controls.js";
import { keys, make } from "./elements.js";
import { framesPlayed, secondsPlayed } from "./length.js";
import { recallPicture, rememberPicture } from "./memory.js";
import { look, watchForPictures } from "./picture.js";
import { ask, stubborn } from "./service.js";
import { Settings } from "./settings.js";
import { sizes } from "./sizes.js";
import { duration } from "./words.js";

// What most people want to move; the rest is folded away.
const AT_HAND = ["fit", "motion", "motion_bucket_id", "num_frames", "fps"];

/** Tells "picture" where there is another one, and "frame" where the clip's shape has changed. */
export class Maker extends EventTarget {
  constructor() {
    super();
    this.form = document.querySelector("#maker");
    this.settings = new Settings();
    this.picture = null; // with its file, url, width and height
    document.querySelector("#choose").addEventListener("click", () => this.form.elements.file.click());
    watchForPictures(this.form.elements.file, document.querySelector("#stage"), (file) => this.take(file));
  }

  async begin() {
    const kept = await recallPicture();
    await this.refresh();
    if (kept) await this.take(kept);
  }

  /** Asks which engines there are, and shows them anew where something is different. */
  refresh() {
    this.asking ??= this.#refresh().finally(() => (this.asking = null));
    return this.asking;
  }

  async #refresh() {
    const list = await stubborn(() => ask("engines"));
    if (JSON.stringify(list) === JSON.stringify(this.settings.list)) return;
    this.settings.list = list;
    this.build();
  }

  /** @param {File} file */
  async take(file) {
    const seen = await look(file);
    this.#complain("#file-error", seen ? "" : `${file.name} is no picture that can be shown here.`);
    if (!seen) return;
    if (this.picture) URL.revokeObjectURL(this.picture.url);
    this.picture = { file, ...seen };
    document.querySelector("#file-name").textContent = file.name;
    this.kept = rememberPicture(file);
    this.#showSizes();
    this.#complain("#form-error", "");
    this.#tell("picture");
  }

  set(name, value) {
    this.settings.set(name, value);
    this.#showSum();
    this.#checkSize();
    if (["width", "height", "fit"].includes(name)) this.#tell("frame");
  }

  /** Whether everything is there that is needed; says what is not. */
  check() {
    if (!this.settings.list) return false; // the service is away, and that is said
    if (!this.picture) {
      this.#complain("#form-error", "Choose a picture first.");
      this.form.elements.file.focus();
      return false;
    }
    this.#complain("#form-error", "");
    const wrong = this.form.querySelector("#settings :invalid:not(fieldset)");
    if (wrong) this.#pointAt(wrong, wrong.validationMessage);
    return !wrong;
  }

  /** @param {import("./service.js").Refused} refused */
  complain({ message, code, param }) {
    const control = this.form.querySelector(`[data-parameter="${CSS.escape(param ?? "")}"]`);
    const text = `${message} (${code})`;
    if (control) this.#pointAt(control.querySelector("input"), text);
    else this.#complain("#form-error", text);
    this.form.querySelector("#form-error").scrollIntoView({ block: "nearest" });
  }

  build() {
    const { limits } = this.settings.engine;
    const made = Object.entries(limits).map(([name, limit]) =>
      control(name, limit, this.settings.values[name], (value) => this.set(name, value)),
    );
    const rank = ({ dataset }) => AT_HAND.indexOf(dataset.parameter);
    const atHand = made.filter((one) => rank(one) >= 0).sort((one, other) => rank(one) - rank(other));
    const folded = made.filter((one) => rank(one) < 0);
    const rest = make("details", { className: "fold" }, make("summary", {}, "More settings"), ...folded);
    this.sizes = make("div");
    document.querySelector("#settings").replaceChildren(this.#engines(), this.sizes, ...atHand, rest);
    this.#showSizes();
    this.#showSum();
  }

  #engines() {
    const made = this.settings.list.engines.map(({ name, summary, available, reason }) => {
      const input = make("input", { type: "radio", name: "engine", value: name, checked: name === this.settings.engine.name, disabled: !available });
      input.addEventListener("change", () => this.#choose(name));
      const text = make("span", { className: "engine-text" }, make("b", {}, name), make("span", {}, summary));
      if (!available) text.append(make("span", { className: "reason" }, `Not here: ${reason}`));
      return make("label", { className: "engine" }, input, text);
    });
    return make("fieldset", { className: "engines" }, make("legend", {}, "Engine"), ...made);
  }

  #choose(engine) {
    this.settings.choose(engine);
    this.build();
    this.#tell("frame");
    this.form.querySelector(`[name=engine][value="${engine}"]`).focus();
  }

  #showSizes() {
    if (!this.settings.list) return;
    const options = sizes(this.settings.engine, this.picture).map((size) => ({
      value: `${size.width}x${size.height}`,
      text: size.name,
      hint: `${size.width} × ${size.height}`,
      mark: shapeMark(size),
    }));
    const choose = (size) => size.split("x").forEach((pixels, index) => this.#enter(["width", "height"][index], pixels));
    this.sizes.replaceChildren(keys({ legend: "Shape", name: "size", options, choose }));
    this.#checkSize();
  }

  #checkSize() {
    const { width, height } = this.settings.values;
    for (const key of this.sizes.querySelectorAll("input")) key.checked = key.value === `${width}x${height}`;
  }

  /** As if somebody had typed it. */
  #enter(name, value) {
    const field = this.form.elements[name];
    field.value = value;
    field.dispatchEvent(new Event("input"));
  }

  #showSum() {
    const clip = this.settings.values;
    const size = `${clip.width} × ${clip.height}`;
    document.querySelector("#sum").textContent = `${size}, ${framesPlayed(clip)} frames, ${duration(secondsPlayed(clip))}`;
  }

  #pointAt(field, text) {
    field.closest("details")?.setAttribute("open", "");
    field.setAttribute("aria-invalid", "true");
    field.addEventListener("input", () => field.removeAttribute("aria-invalid"), { once: true });
    field.focus();
    this.#complain("#form-error", text);
  }

  #complain(where, text) {
    document.querySelector(where).textContent = text;
  }

  #tell(what) {
    this.dispatchEvent(new Event(what));
  }
}

/** A small rectangle of the size's shape. */
function shapeMark({ width, height }) {
  const mark = make("i", { className: "shape" });
  const scale = 16 / Math.max(width, height);
  Object.assign(mark.style, { width: `${width * scale}px`, height: `${height * scale}px` });
  return mark;
}
