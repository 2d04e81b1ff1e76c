/** A task as the curl command that asks for the same. */

import { key } from "./key.js";

/**
 * @param {object} task as GET /status has it
 * @param {{limits: object, defaults: object} | undefined} engine
 * @param {string} picture the name of its file
 * @returns {string | null} null where it goes on from another clip, and not from a picture
 */
export function asCurl(task, engine, picture) {
  if (task.params.continues || !engine) return null;
  const { limits, defaults } = engine;
  const given = Object.entries(task.params).filter(([name, value]) => name in limits && value !== defaults[name]);
  const fields = [["file", `@${named(picture)}`], ["engine", task.engine], ...given];
  const lines = [
    `curl ${new URL("generate", document.baseURI)}`,
    ...(key() ? ['-H "Authorization: Bearer $KEY"'] : []),
    ...fields.map(([name, value]) => `-F ${quoted(`${name}=${value}`)}`),
  ];
  return lines.join(" \\\n  ");
}

/** curl reads some characters of a file's name as its own. */
const named = (file) => (/^[\w. -]+$/.test(file) ? file : `"${file.replaceAll(/["\\]/g, "\\$&")}"`);

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
