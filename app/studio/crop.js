/** How a picture is cut, barred or stretched into a clip's frame, as the service does it: around the middle. */

/**
 * Where picture and frame lie, both in the middle of the smallest box around the two.
 * @param {{width: number, height: number}} picture
 * @param {{width: number, height: number}} frame
 * @param {"cover" | "contain" | "stretch"} fit
 * @returns the box's shape (width by height), and picture and frame in parts of the box
 */
export function layOut(picture, frame, fit) {
  const shape = frame.width / frame.height;
  const own = fit === "stretch" ? shape : picture.width / picture.height;
  const height = (fit === "contain" ? Math.min : Math.max)(1, shape / own); // the frame's height is 1
  const box = { width: Math.max(shape, own * height), height: Math.max(1, height) };
  const inBox = (width, height) => ({ width: width / box.width, height: height / box.height });
  return { shape: box.width / box.height, picture: inBox(own * height, height), frame: inBox(shape, 1) };
}

/** @param {HTMLElement} element */
export function place(element, { width, height }) {
  for (const [name, share, offset] of [["width", width, "left"], ["height", height, "top"]]) {
    element.style[name] = `${100 * share}%`;
    element.style[offset] = `${50 * (1 - share)}%`;
  }
}
