/** What outlives a reload: small things in localStorage, the picture in IndexedDB. */

const PREFIX = "kinora.";

export function recall(name) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name));
  } catch {
    return null; // switched off, or not ours
  }
}

export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Full or switched off: then a reload begins anew.
  }
}

/** @param {File | null} file */
export async function rememberPicture(file) {
  await inStore("readwrite", (store) => (file ? store.put(file, "picture") : store.delete("picture")));
}

/** @returns {Promise<File | undefined>} */
export const recallPicture = () => inStore("readonly", (store) => store.get("picture"));

async function inStore(mode, act) {
  try {
    const database = await done(opened());
    const result = await done(act(database.transaction("pictures", mode).objectStore("pictures")));
    database.close();
    return result;
  } catch {
    return undefined; // a private window may have no such store
  }
}

function opened() {
  const request = indexedDB.open("kinora", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures");
  return request;
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
