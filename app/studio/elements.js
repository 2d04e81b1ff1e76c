/** Making elements. */

/**
 * @param {string} tag
 * @param {object} properties of the element; `dataset` and `aria-…` too
 * @param {...(Node | string)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A group of radio buttons that look like keys of a row. */
export function keys({ legend, name, options, chosen, choose }) {
  const made = options.map(({ value, text, hint = "", mark = "" }) => {
    const input = make("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => choose(value));
    return make("label", { className: "key", title: hint }, input, make("span", {}, mark, text));
  });
  return make("fieldset", { className: "keys" }, make("legend", {}, legend), make("div", {}, ...made));
}
