/** How long a clip plays, as core/requests/clip.py reckons it. */

/** A smoothed one has a frame at each multiple of 1 / smooth_fps seconds, up to its last rendered frame. */
export function framesPlayed({ num_frames: frames, fps, smooth_fps: smooth }) {
  return smooth ? Math.floor(((frames - 1) * smooth) / fps) + 1 : frames;
}

export function secondsPlayed(clip) {
  return framesPlayed(clip) / (clip.smooth_fps ?? clip.fps);
}
