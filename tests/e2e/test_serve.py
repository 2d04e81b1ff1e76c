"""scripts/serve, which keeps the whole service running without Docker."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import sqlalchemy as sa
from redis import Redis

from core.config.settings import Settings
from core.ledger.moves import Ledger
from core.process.unusable import EXIT_UNUSABLE
from harness.pictures import SAMPLES
from harness.servers import RedisServer, free_port, wait_until
from harness.stack import ROOT

KEEP = ROOT / "scripts/keep"
NAMES = {
    "redis": "redis-server",
    "app": "-m app",
    "worker-cpu": "-m worker --queue cpu",
    "worker-gpu": "-m worker --queue gpu",
    "keeper": "-m keeper",
}


class Served:
    def __init__(self, process: psutil.Popen, url: str) -> None:
        self.process, self.client = process, httpx2.Client(base_url=url, timeout=30)

    def running(self) -> dict[str, psutil.Process]:
        """The service's processes, by the Procfile's names."""
        found = {}
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = " ".join(child.cmdline())
                found |= {name: child for name, said in NAMES.items() if said in words and "bash" not in words}
        return found

    def is_well(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return self.client.get("/health").status_code == 200
        return False

    def make_a_clip(self) -> None:
        fields = {"width": 64, "height": 64, "num_frames": 2}
        picture = (SAMPLES / "cat.jpg").read_bytes()
        made = self.client.post("/generate", files={"file": picture}, data=fields).json()
        wait_until(lambda: self.client.get(f"/results/{made['task_id']}").status_code == 200, 60, "the clip")


@contextlib.contextmanager
def serving(folder: Path, *before: str, **settings: str) -> Iterator[Served]:
    """The service, started by the words of `before` and scripts/serve; it is killed in the end."""
    port = free_port()
    own = {"API_PORT": str(port), "WORKER_METRICS_PORT": str(free_port()), "DATA_DIR": "my data"}
    with (folder / "serve.log").open("wb") as log:
        command = [*before, str(ROOT / "scripts/serve")]
        environment, session = os.environ | own | settings, {"start_new_session": True, "umask": 0o022}
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, **session)
    served = Served(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(served.is_well, 60, "the service")
        yield served
    finally:
        served.client.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            for left in [*process.children(recursive=True), process]:
                left.kill()
        process.wait()


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_what_dies_is_started_again_and_a_stop_ends_all(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.make_a_clip()
        assert (tmp_path / "my data" / "kinora.db").exists()
        wait_until(lambda: served.running().keys() == NAMES.keys(), 60, "all of them")
        before = served.running()
        for each in before.values():
            each.kill()
        wait_until(lambda: served.running().keys() == NAMES.keys() and served.is_well(), 60, "all of them again")
        after = served.running()
        assert {name for name in NAMES if after[name].pid == before[name].pid} == set()
        served.make_a_clip()
        all_of_it = served.process.children(recursive=True)
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert left_of(all_of_it) == []
    said = (tmp_path / "serve.log").read_text()
    assert set(re.findall(r"keep: (\S+) ended with 137; it starts again", said)) == NAMES.keys()
    assert said.index("Finished server process") < said.rindex("Redis is now ready to exit")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT], ids=["closed", "ctrl-c", "ctrl-\\"])
def test_what_a_terminal_sends_to_all_of_its_processes_ends_them_in_order(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as served:
        wait_until(lambda: served.running().keys() == NAMES.keys(), 60, "all of them")
        all_of_it = served.process.children(recursive=True)
        os.killpg(served.process.pid, number)
        assert served.process.wait(60) == 0
        assert left_of(all_of_it) == []
    said = (tmp_path / "serve.log").read_text()
    assert "keep: " not in said
    assert said.index("Finished server process") < said.rindex("Redis is now ready to exit")


def test_under_nohup_it_goes_on_when_the_terminal_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, "nohup") as served:
        wait_until(lambda: served.running().keys() == NAMES.keys(), 60, "all of them")
        before = served.running()
        os.killpg(served.process.pid, signal.SIGHUP)
        served.make_a_clip()
        assert served.running() == before
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert left_of(list(before.values())) == []


def test_a_setting_that_no_longer_fits_ends_all_of_it_in_order(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        wait_until(lambda: served.running().keys() == NAMES.keys(), 60, "all of them")
        all_of_it = served.process.children(recursive=True)
        ledger = sa.create_engine(f"sqlite:///{tmp_path}/my data/kinora.db")
        with ledger.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
            connection.execute(sa.text("UPDATE ledger SET lowest_reader = '9999'"))
        ledger.dispose()
        assert served.process.wait(60) == 78
        assert left_of(all_of_it) == []
    said = (tmp_path / "serve.log").read_text()
    assert re.search(r"keep: \S+ ended with 78, which no new start mends", said)
    assert "the ledger is of version 9999" in said
    assert said.rstrip().endswith("Redis is now ready to exit, bye bye...")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_one_kept_command_is_told_to_stop_and_waited_for(number: int) -> None:
    """In an orderly way: it says so once it has."""
    command = "trap 'sleep 0.2; echo stopped; exit' TERM; echo begun; while :; do sleep 0.05; done"
    kept = psutil.Popen([str(KEEP), "it", "bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert kept.stdout.readline() == b"begun\n"
    kept.send_signal(number)
    assert kept.communicate(timeout=60) == (b"stopped\n", b"")
    assert kept.returncode == 0


def test_a_kept_command_is_started_again_until_it_says_that_no_start_mends_it(tmp_path: Path) -> None:
    command = f"[ ! -e {tmp_path}/tried ] || exit 78; touch {tmp_path}/tried; exit 1"
    done = subprocess.run([KEEP, "it", "bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        "keep: it ended with 1; it starts again in 2 seconds",
        "keep: it ended with 78, which no new start mends",
    ]


def test_a_redis_that_a_setting_names_is_used_in_the_place_of_its_own(tmp_path: Path) -> None:
    with RedisServer() as redis, serving(tmp_path, REDIS_URL=f"redis://127.0.0.1:{redis.port}") as served:
        served.make_a_clip()
        assert served.running().keys() == NAMES.keys() - {"redis"}
        assert redis.client.smembers("rq:workers")


def test_the_redis_of_its_own_is_for_this_user_alone(tmp_path: Path) -> None:
    """It opens no port, to which others could connect until it has no room, or which they could take before it."""
    with serving(tmp_path) as served:
        found = served.running()
        password = urlsplit(found["app"].environ()["REDIS_URL"]).password
        assert len(password) == 64
        assert not [each for each in found.values() if password in " ".join(each.cmdline())]
        files = [path for path in (tmp_path / "my data").rglob("*") if path.is_file()]
        assert not [path for path in files if password.encode() in path.read_bytes()]
        own = found["redis"]
        assert [each for each in own.net_connections("inet") if each.status == psutil.CONN_LISTEN] == []
        (address,) = {each.laddr for each in own.net_connections("unix") if each.laddr}
        folder = Path(address).parent
        assert folder.stat().st_mode & 0o077 == 0
        served.process.terminate()
        assert served.process.wait(60) == 0
        assert not folder.exists()


def test_two_in_one_data_folder_leave_each_other_their_redis(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    with serving(tmp_path) as first, serving(other, DATA_DIR=str(tmp_path / "my data")) as second:
        for served in (first, second):
            wait_until(lambda served=served: served.running().keys() == NAMES.keys(), 60, "all of them")
        before = first.running()["redis"]
        before.kill()
        before.wait(20)
        wait_until(lambda: "redis" in first.running() and first.is_well(), 60, "its Redis again")
        addresses = {served.running()["app"].environ()["REDIS_URL"] for served in (first, second)}
        assert len(addresses) == 2
        for address in addresses:
            with Redis.from_url(address) as redis:
                assert redis.ping()
        for served in (first, second):
            served.make_a_clip()


def test_what_it_keeps_is_for_this_user_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.make_a_clip()
        made = [tmp_path / "my data", *(tmp_path / "my data").rglob("*")]
        assert {"kinora.db", "video.mp4"} <= {place.name for place in made}
        assert [place for place in made if place.exists() and place.stat().st_mode & 0o077] == []


def test_a_setting_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts/serve"], env=os.environ | {"DATABASE_URL": "x"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78
    assert done.stderr.startswith("kinora: the settings do not fit: DATABASE_URL: must be like ")
    assert len(done.stderr.splitlines()) == 1


def test_a_data_folder_that_cannot_be_made_ends_it(tmp_path: Path) -> None:
    environment = os.environ | {"DATA_DIR": "/proc/nowhere", "API_PORT": str(free_port())}
    done = subprocess.run([ROOT / "scripts/serve"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert "kinora: set DATA_DIR to a folder that can be made and written to, for " in done.stderr
    assert "starts again" not in done.stderr


@pytest.mark.skipif(not os.environ.get("CI") and not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_unit_for_systemd_is_valid(tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    text = (ROOT / "deploy/systemd/kinora.service").read_text()
    unit = tmp_path / "kinora.service"
    unit.write_text(text.replace("/opt/kinora", str(ROOT)).replace("User=kinora", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"RestartPreventExitStatus={EXIT_UNUSABLE}\n" in text
    stops = re.search(r"TimeoutStopSec=(\d+)", text)
    assert stops is not None
    assert int(stops[1]) > Settings(_env_file=None).shutdown_grace


def test_keys_are_made_from_any_folder_for_the_data_folder_that_is_named_there(tmp_path: Path) -> None:
    (home := tmp_path / "else where").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DATA_DIR": "my data"}
    command = [ROOT / "scripts/keys", "create", "--name", "ann"]
    made = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stderr
    ledger = Ledger(f"sqlite:///{home}/my data/kinora.db")
    assert ledger.keys.find(made.stdout.split()[0]) is not None
    ledger.close()
