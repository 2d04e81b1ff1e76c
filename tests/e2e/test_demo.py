"""demo.sh as a user runs it."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import av
import pytest

from harness.pictures import SAMPLES
from harness.servers import free_port, wait_until
from harness.stack import ROOT, running_stack


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    own = {"API_PORT": str(free_port()), "DATA_DIR": str(tmp_path / "data"), "TMPDIR": str(tmp_path)}
    return {**os.environ, **own, "WORKER_METRICS_PORT": str(free_port())}


def demo(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "demo.sh"), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=environment["TMPDIR"], capture_output=True, text=True, timeout=300, umask=0o022
    )


def nothing_listens(environment: dict[str, str]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(environment["API_PORT"]))) != 0


def test_the_demo_makes_a_video_says_what_it_is_and_stops_everything(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = demo(environment, SAMPLES / "rocket.jpg", "clip.mp4")
    assert done.returncode == 0, done.stdout + done.stderr
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25
    assert "100 %" in done.stdout
    for said in ("clip.mp4", "1024 × 576", "25 at 7 a second", "preview", "seconds"):
        assert said in done.stdout
    assert nothing_listens(environment)
    assert list(tmp_path.glob("kinora-demo.*")) == []
    kept = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert [place for place in kept if place.stat().st_mode & 0o077] == []
    assert (tmp_path / "clip.mp4").stat().st_mode & 0o777 == 0o644


def test_without_arguments_it_takes_a_sample(environment: dict[str, str], tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        done = demo(environment | {"API_URL": stack.url})
    assert done.returncode == 0, done.stderr
    assert f"Using the service at {stack.url}" in done.stdout
    assert (tmp_path / "output_video.mp4").exists()


@pytest.mark.parametrize(
    ("driver", "refused"), [("535.183.01", True), ("575.64", True), ("580.65.06", False), ("[N/A]", False)]
)
def test_a_driver_that_torch_is_too_new_for_is_said_before_anything_is_fetched(
    environment: dict[str, str], tmp_path: Path, driver: str, refused: bool
) -> None:
    home, tools = tmp_path / "home", tmp_path / "tools"
    for folder in (home / "scripts", home / "samples", tools):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "demo.sh", home)
    shutil.copy(SAMPLES / "cat.jpg", home / "samples" / "coffee.jpg")
    venv = home / "scripts" / "venv"
    venv.write_text("#!/bin/sh\necho fetches $1 >&2; exit 1\n")
    smi = tools / "nvidia-smi"
    smi.write_text(f'#!/bin/sh\ncase $1 in -L) echo "GPU 0: NVIDIA H200";; *) echo "{driver}";; esac\n')
    for tool in (venv, smi):
        tool.chmod(0o755)
    known = environment | {"PATH": f"{tools}:{environment['PATH']}"}
    done = subprocess.run([home / "demo.sh"], env=known, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    said = f"demo: update the NVIDIA driver to 580 or newer, for this one is {driver} (ENGINE=preview ./demo.sh does "
    assert done.stderr == (f"{said}without a GPU)\n" if refused else "fetches demo-gpu\n")
    without = subprocess.run(
        [home / "demo.sh"], env=known | {"ENGINE": "preview"}, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert without.stderr == "fetches demo-gpu\n"


def test_it_runs_in_a_folder_with_a_space_with_a_relative_data_folder_and_a_proxy_for_the_world(
    environment: dict[str, str], tmp_path: Path
) -> None:
    home = tmp_path / "a b"
    shutil.copytree(ROOT, home, ignore=lambda folder, _: {".git", ".venv", "data"} if folder == str(ROOT) else set())
    (home / ".venv").symlink_to(ROOT / ".venv")
    # What honcho would read otherwise than the service does, and what the demo's own Redis stands above.
    (home / ".env").write_text(
        "CORS_ORIGINS='https://a.example, https://b.example'\nREDIS_URL=redis://nowhere.invalid/3\n"
        "REDIS_USERNAME=ann\nREDIS_PASSWORD=another's\n"
    )
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), f"http://127.0.0.1:{free_port()}")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    known = environment | proxies | {"DATA_DIR": "my data", "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(["../a b/demo.sh"], env=known, cwd=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in elsewhere.iterdir()) == ["my data", "output_video.mp4"]
    assert (elsewhere / "my data" / "kinora.db").exists()
    assert not (home / "data").exists()


def test_a_missing_file_is_one_clear_line(environment: dict[str, str]) -> None:
    done = demo(environment, "nowhere.jpg")
    assert (done.returncode, done.stderr) == (1, "demo: there is no file nowhere.jpg\n")


def test_a_file_that_is_no_picture_is_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    done = demo(environment, "notes.jpg")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "HEIC, GIF or BMP" in done.stderr
    assert nothing_listens(environment)


def test_a_port_in_use_is_one_clear_line(environment: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environment["API_PORT"])))
        taken.listen()
        done = demo(environment, SAMPLES / "cat.jpg")
    assert done.returncode == 1
    assert done.stderr == (
        f"demo: port {environment['API_PORT']} is in use by another program; choose one with API_PORT=8001 ./demo.sh\n"
    )


def test_an_engine_that_cannot_run_is_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = demo(environment | {"ENGINE": "svd-xt", "MODEL_ID": str(tmp_path / "nowhere")})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere" in done.stderr
    assert "ENGINE=preview" in done.stderr


def test_a_setting_that_does_not_fit_is_one_clear_line(environment: dict[str, str]) -> None:
    done = demo(environment | {"RATE_LIMIT": "often"})
    said = "kinora: the settings do not fit: RATE_LIMIT must be like 10/second or 6000/minute, or 0; got often\n"
    assert (done.returncode, done.stderr) == (1, f"{said}demo: the service did not start\n")


def test_it_says_what_it_waits_for(environment: dict[str, str], tmp_path: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    process = subprocess.Popen([str(ROOT / "demo.sh")], env=environment | {"DATABASE_URL": url}, stdout=subprocess.PIPE)
    waiting = (line for line in process.stdout if b"the ledger does not answer" in line)
    assert next(waiting, b"").startswith(b"Waiting: ")
    process.terminate()
    process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 130


@pytest.mark.parametrize("how", ["ctrl-c", "closed", "kill"])
def test_interrupting_it_stops_everything(environment: dict[str, str], how: str) -> None:
    process = subprocess.Popen([str(ROOT / "demo.sh")], env=environment, stdout=subprocess.PIPE, start_new_session=True)
    wait_until(lambda: not nothing_listens(environment), 60, "the service")
    if how != "kill":  # a terminal sends it to the whole group
        os.killpg(process.pid, signal.SIGINT if how == "ctrl-c" else signal.SIGHUP)
    else:
        process.terminate()
    assert process.wait(30) == 130
    process.stdout.close()
    assert nothing_listens(environment)
    listed = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True).stdout
    processes = [line.split(maxsplit=2) for line in listed.splitlines()]
    assert [args for group, state, args in processes if group == str(process.pid) and state != "Z"] == []
