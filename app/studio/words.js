/** How things are called on the page. What has no entry is called by its own name. */

const LABELS = {
  motion: "Camera",
  motion_bucket_id: "Motion",
  num_frames: "Frames",
  fps: "Frames a second",
  smooth_fps: "Frames a second, smoothed",
  fit: "Where the shapes differ",
  quality: "Compression (1 is the best picture)",
  seed: "Seed",
  num_inference_steps: "Denoising steps",
  noise_aug_strength: "Freedom from the picture",
  min_guidance_scale: "Guidance at the first frame",
  max_guidance_scale: "Guidance at the last frame",
  decode_chunk_size: "Frames decoded at once",
  profile: "Profile (fast is an approximation)",
};

const PHASES = {
  load: "Loading the engine",
  encode_image: "Looking at the picture",
  denoise: "Making the frames",
  decode: "Developing the frames",
  render: "Making the frames",
  encode_video: "Writing the video",
  smooth: "Smoothing the motion",
  join: "Joining the two parts",
  store: "Putting it away",
};

const CHOICES = { cover: "crop", contain: "black bars" };

// What a parameter without a value means.
const UNSET = { seed: "drawn", smooth_fps: "off", decode_chunk_size: "by memory" };

const STATES = { queued: "waiting", started: "running" };

const plain = (name) => name.replaceAll("_", " ");
const capital = (text) => text[0].toUpperCase() + text.slice(1);

export const label = (name) => LABELS[name] ?? capital(plain(name));
export const state = (name) => STATES[name] ?? name;
export const unset = (name) => UNSET[name];
export const choice = (name) => CHOICES[name] ?? plain(name);

/** @param {object} task as GET /status has it */
export function saying(task) {
  const { status, step, queue_position: place, error } = task;
  if (status === "queued") return place > 1 ? `Number ${place} in the queue` : "Next in the queue";
  if (status === "started") return (PHASES[step?.phase] ?? "Starting") + part(step);
  if (status === "finished") return task.result_url ? "Finished" : "Its video has been deleted";
  if (status === "canceled") return "Canceled";
  return `This clip could not be made: ${error.message}`;
}

const part = (step) => (step?.of > 1 ? `, part ${step.number} of ${step.of}` : "");

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** @param {number | null} seconds */
export function left(seconds) {
  if (!seconds || seconds < 1) return "";
  return seconds < 90 ? `about ${Math.ceil(seconds)} s left` : `about ${Math.ceil(seconds / 60)} min left`;
}

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** @param {string} moment in ISO 8601 */
export function ago(moment) {
  const seconds = Math.min(0, (Date.parse(moment) - Date.now()) / 1000);
  if (seconds > -45) return "just now";
  const [unit, size] = UNITS.find(([, size]) => -seconds >= size);
  return relative.format(Math.round(seconds / size), unit);
}

/** @param {number} bytes */
export const weight = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
