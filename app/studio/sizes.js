/** Sizes to choose from: shapes with about as many pixels as the engine's own size, within its limits. */

/**
 * @param {{limits: object, defaults: object}} engine
 * @param {{width?: number, height?: number} | null} picture
 */
export function sizes(engine, picture) {
  const { width, height } = engine.defaults;
  const shapes = [["wide", width / height], ["square", 1], ["tall", height / width]];
  if (picture?.width) shapes.push(["as the picture", picture.width / picture.height]);
  return shapes.map(([name, shape]) => ({ name, ...sized(engine, shape) }));
}

function sized({ limits, defaults }, shape) {
  const area = defaults.width * defaults.height;
  const most = Math.min(limits.width.maximum, limits.height.maximum * shape);
  const width = Math.min(Math.sqrt(area * shape), most);
  return { width: allowed(width, limits.width), height: allowed(width / shape, limits.height) };
}

function allowed(pixels, { minimum, maximum, multiple_of: step = 1 }) {
  return Math.max(minimum, Math.min(maximum, step * Math.round(pixels / step)));
}
