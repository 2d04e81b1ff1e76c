/** One control for one parameter, built from its limit in GET /engines. */

import { keys, make } from "./elements.js";
import { choice, label, unset } from "./words.js";

const DRAGGABLE = 1e5; // values; more than that is no matter for a slider

/**
 * @param {string} name
 * @param {object} limit with choices, or with type, minimum, maximum and multiple_of
 * @param {number | string | undefined} value
 * @param {(value: number | string | undefined) => void} set
 */
export function control(name, limit, value, set) {
  const made = limit.choices ? chooser(name, limit, value, set) : number(name, limit, value, set);
  made.dataset.parameter = name;
  return made;
}

function chooser(name, { choices }, chosen, choose) {
  const options = choices.map((value) => ({ value, text: choice(value) }));
  return keys({ legend: label(name), name, options, chosen, choose });
}

function number(name, limit, value, set) {
  const bounds = { min: limit.minimum, max: limit.maximum, step: stepOf(limit) };
  const id = `field-${name}`;
  const exact = make("input", { type: "number", id, name, ...bounds, value: value ?? "", placeholder: unset(name) ?? "" });
  exact.required = !unset(name);
  const head = [make("label", { htmlFor: id }, label(name)), exact];
  const parts = exact.required && limit.maximum - limit.minimum < DRAGGABLE ? [...head, slider(name, bounds, exact)] : head;
  exact.addEventListener("input", () => set(exact.value === "" ? undefined : Number(exact.value)));
  return make("div", { className: "number" }, ...parts);
}

/** Moves with the exact field, and the field with it. */
function slider(name, bounds, exact) {
  const range = make("input", { type: "range", ...bounds, value: exact.value, "aria-label": `${label(name)}, slider` });
  const paint = () => {
    const share = (range.value - bounds.min) / (bounds.max - bounds.min);
    range.style.setProperty("--share", `${100 * share}%`);
  };
  exact.addEventListener("input", () => {
    range.value = exact.value;
    paint();
  });
  range.addEventListener("input", () => {
    exact.value = range.value;
    exact.dispatchEvent(new Event("input"));
  });
  paint();
  return range;
}

function stepOf({ type, minimum, maximum, multiple_of: multiple }) {
  return multiple ?? (type === "integer" ? 1 : 10 ** Math.floor(Math.log10((maximum - minimum) / 50)));
}
