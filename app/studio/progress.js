/** The progress bar: the leaves of a reel, turned one after the other. It never goes back. */

import { make } from "./elements.js";

const LEAVES = 72;
const MEASURED = ["encode_image", "denoise", "decode", "render", "encode_video"]; // the others cannot say how far they are

export class Progress {
  /** @param {HTMLElement} bar */
  constructor(bar) {
    this.bar = bar;
    this.leaves = Array.from({ length: LEAVES }, () => make("i"));
    bar.replaceChildren(...this.leaves);
    this.begin();
  }

  begin() {
    this.turned = 0;
    this.show({ status: "queued", progress: 0 }, "Waiting");
  }

  /** @returns {string} the figure to show beside the bar; empty where there is nothing to measure */
  show({ status, progress, step }, words) {
    this.turned = Math.max(this.turned, progress);
    const isMeasured = status === "started" && MEASURED.includes(step?.phase);
    this.bar.dataset.status = status;
    this.bar.classList.toggle("moving", status === "started" && !isMeasured);
    this.bar.setAttribute("aria-valuenow", this.turned);
    this.bar.setAttribute("aria-valuetext", isMeasured ? `${this.turned} %` : words);
    this.leaves.forEach((leaf, index) => leaf.classList.toggle("turned", index < (this.turned / 100) * LEAVES));
    return isMeasured ? `${this.turned} %` : "";
  }
}
