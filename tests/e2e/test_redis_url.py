"""Redis as others run it: over TLS, with a user of few rights, named by a URL or by its parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config.settings import Settings
from core.errors import QueueUnavailable
from core.queue import StepQueue
from harness.pictures import SAMPLES
from harness.servers import RedisServer, free_port
from harness.stack import running_stack
from harness.tls import tls_to

PASSWORD = "p/w@1:%#?"
QUOTED = "p%2Fw%401%3A%25%23%3F"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One whose default user may do nothing; ann may do what deploy/redis/users.acl says."""
    with RedisServer(guarded=True) as server:
        (line,) = [line for line in server.client.acl_list() if line.startswith("user default ")]
        rights = [rule for rule in line.split()[2:] if not rule.startswith("#")]
        server.client.execute_command("ACL", "SETUSER", "ann", *rights, f">{PASSWORD}")
        server.client.execute_command("ACL", "SETUSER", "default", "off")
        yield server


@pytest.fixture(scope="module")
def tls(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    with tls_to(redis.port, tmp_path_factory.mktemp("tls")) as front:
        yield front


def settings(**given: object) -> Settings:
    return Settings(_env_file=None, **given)


def ping(settings: Settings) -> None:
    queue = StepQueue(settings)
    try:
        queue.ping()
    finally:
        queue.close()


def test_the_service_works_over_tls_with_a_user_of_few_rights(
    redis: RedisServer, tls: tuple[int, Path], tmp_path: Path
) -> None:
    port, authority = tls
    redis.client.acl_log_reset()
    url = f"rediss://ann:{QUOTED}@localhost:{port}/0?ssl_ca_certs={authority}"
    with running_stack(tmp_path, REDIS_URL=url, REDIS_PORT=str(free_port())) as stack:
        task_id = stack.upload(SAMPLES / "cat.jpg", width=64, height=64, num_frames=2)
        assert stack.wait_for(task_id)["status"] == "finished"
    assert redis.client.acl_log() == []
    assert {client["user"] for client in redis.client.client_list()} <= {"ann", "watcher"}


def test_a_certificate_of_nobody_known_is_refused(tls: tuple[int, Path]) -> None:
    url = f"rediss://ann:{QUOTED}@localhost:{tls[0]}"
    with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        ping(settings(redis_url=url))
    ping(settings(redis_url=f"{url}?ssl_cert_reqs=none&socket_connect_timeout=2.5"))


def test_what_the_url_does_not_say_of_the_user_the_other_settings_do(redis: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    of_file = {"redis_password_file": tmp_path / "password"}
    ping(settings(redis_port=redis.port, redis_username="ann", redis_password=PASSWORD))
    ping(settings(redis_port=redis.port, redis_username="ann", **of_file))
    ping(settings(redis_url=f"redis://ann@localhost:{redis.port}", **of_file))
    ping(settings(redis_url=f"redis://localhost:{redis.port}?username=ann&password={QUOTED}", redis_username="bob"))
    ping(settings(redis_url=f"redis://ann@localhost:{redis.port}", redis_username="bob", redis_password=PASSWORD))
    ping(settings(redis_url=f"redis://ann:{QUOTED}@localhost:{redis.port}", redis_password="another's"))
    ping(settings(redis_url=f"redis://ann:{QUOTED}@localhost:{redis.port}", redis_host="nowhere.invalid", **of_file))


@pytest.mark.parametrize("user", [{}, {"redis_username": "ann"}, {"redis_username": "ann", "redis_password": "wrong"}])
def test_a_user_who_is_not_let_in_is_told_by_which_settings(redis: RedisServer, user: dict[str, str]) -> None:
    with pytest.raises(QueueUnavailable, match="REDIS_USERNAME"):
        ping(settings(redis_port=redis.port, **user))


def test_a_socket_of_this_machine_is_reached_by_its_path() -> None:
    with RedisServer(socket="redis.sock") as server:
        ping(settings(redis_url=f"unix://{server.folder}/redis.sock?db=1"))
        assert server.client.info("keyspace").keys() == {"db1"}
