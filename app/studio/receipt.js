/** What is needed to make a clip again, as a list. */

import { make } from "./elements.js";
import { duration, weight } from "./words.js";

/** @param {object} receipt as GET /status has it; null for an unfinished task */
export function receiptRows(receipt) {
  const { parameters = {}, seconds = {}, libraries = {}, output_bytes: bytes, ...rest } = receipt ?? {};
  const rows = [
    ...Object.entries(rest),
    ...Object.entries(parameters),
    ...Object.entries(seconds).map(([phase, taken]) => [`${phase} took`, duration(taken)]),
    ...(bytes ? [["size", weight(bytes)]] : []),
    ["made with", Object.entries(libraries).map((library) => library.join(" ")).join(", ")],
  ];
  const shown = new Map(rows.filter(([, value]) => value !== null && typeof value !== "object"));
  return [...shown].map(([name, value]) =>
    make("div", { className: String(value).length > 40 ? "long" : "" }, make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, String(value))),
  );
}
