/** The picture to begin with: dropped, pasted or chosen. */

/**
 * @param {HTMLInputElement} field
 * @param {HTMLElement} stage where a drop is shown to be welcome; it is taken anywhere
 * @param {(file: File) => void} take
 */
export function watchForPictures(field, stage, take) {
  field.addEventListener("change", () => takeFirst(field.files));
  document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser opens the file in the place of the page
    stage.classList.add("welcoming");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("welcoming");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("welcoming");
    takeFirst(event.dataTransfer.files);
  });

  function takeFirst(files) {
    if (files.length) take(files[0]);
  }
}

/**
 * @param {File} file
 * @returns {Promise<{url: string, width?: number, height?: number} | null>} upright, and without a size where only the
 *   service can read it; null where it is no picture
 */
export async function look(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(image.src);
    return (await isHeic(file)) ? { url: "studio/unseen.svg" } : null;
  }
  return { url: image.src, width: image.naturalWidth, height: image.naturalHeight };
}

/** Whether it is what iPhones make, which few browsers show: by its brand (ISO/IEC 23008-12). */
async function isHeic(file) {
  const head = await file.slice(0, 12).text();
  return /^....ftyp(hei[cmsx]|hev[cmsx]|mif1)/s.test(head);
}
