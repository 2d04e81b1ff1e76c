/** A task as the curl command that asks for the same. */

import { key } from "./key.js";

/**
 * @param {object} task as GET /status has it
 * @param {{name: string, defaults: object}} engine
 * @param {string} picture the name of its file
 */
export function asCurl(task, engine, picture) {
  const { defaults = {} } = engine ?? {};
  const given = Object.entries(task.params).filter(([name, value]) => name !== "engine" && value !== defaults[name]);
  const fields = [["file", `@${picture}`], ["engine", task.engine], ...given];
  const lines = [
    `curl ${new URL("generate", document.baseURI)}`,
    ...(key() ? ['-H "Authorization: Bearer $KEY"'] : []),
    ...fields.map(([name, value]) => `-F ${quoted(`${name}=${value}`)}`),
  ];
  return lines.join(" \\\n  ");
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
