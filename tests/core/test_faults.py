"""What the stores do when they are away, slow, cut off or full."""

import os
import resource
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa

from core.db.postgresql import POSTGRESQL_OPTIONS
from core.errors import LedgerUnavailable, StorageUnavailable
from core.ledger.moves import Ledger
from core.storage import Storage
from harness.proxy import Proxy, proxy_to
from harness.servers import PostgresServer
from tests.conftest import new_task

KEY = "tasks/t/input"
DATA = os.urandom(300_000)


@pytest.fixture
def cut_off(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Storage, Proxy]]:
    """An S3 server behind a proxy that can break every connection."""
    monkeypatch.setattr("core.storage.PATIENCE", {"timeout": "1s", "connect_timeout": "1s", "allow_http": True})
    bucket = f"test-{uuid.uuid4().hex}"
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    boto3.client(
        "s3", endpoint_url=s3_endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    ).create_bucket(Bucket=bucket)
    with proxy_to(int(s3_endpoint.rpartition(":")[2])) as proxy:
        where = {"AWS_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "AWS_REGION": "us-east-1"}
        for name, value in (keys | where).items():
            monkeypatch.setenv(name, value)
        yield Storage(f"s3://{bucket}/kinora"), proxy


def test_an_upload_that_is_cut_off_is_sent_again_and_never_half_there(cut_off: tuple[Storage, Proxy]) -> None:
    storage, proxy = cut_off
    proxy.resets, proxy.reset_after = 2, 100_000
    storage.put(KEY, DATA)
    assert proxy.connections == 3
    assert storage.read(KEY) == DATA


def test_an_upload_that_is_cut_off_every_time_leaves_nothing(cut_off: tuple[Storage, Proxy]) -> None:
    storage, proxy = cut_off
    proxy.resets, proxy.reset_after = 1000, 100_000
    with pytest.raises(StorageUnavailable):
        storage.put(KEY, DATA)
    proxy.resets = 0
    assert list(storage.task_ids()) == []


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_an_object_store_that_is_away_or_slow_is_said_to_be(cut_off: tuple[Storage, Proxy], how: str) -> None:
    storage, proxy = cut_off
    setattr(proxy, how, True)
    for ask in (lambda: storage.put(KEY, DATA), lambda: storage.read(KEY), storage.ping):
        with pytest.raises(StorageUnavailable):
            ask()
    setattr(proxy, how, False)
    storage.put(KEY, DATA)
    assert storage.read(KEY) == DATA


def test_a_postgresql_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.db.postgresql.ANSWER_SECONDS", 0.5)
    monkeypatch.setitem(POSTGRESQL_OPTIONS, "connect_timeout", 2)
    with PostgresServer() as postgres:
        ledger = Ledger(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
        ledger.migrate()
        postgres.freeze()
        asked: list[object] = []

        def ask() -> None:
            try:
                asked.append(ledger.tasks(status=None, after=None, limit=1))
            except LedgerUnavailable as error:
                asked.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(30)
        postgres.thaw()
        assert len(asked) == 1
        assert isinstance(asked[0], LedgerUnavailable)
        assert ledger.tasks(status=None, after=None, limit=1) == []
        ledger.close()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What the kernel then says to a write is what it says on a full disk, but for the number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_picture_that_does_not_fit_the_disk_leaves_nothing(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/storage")
    with no_file_larger_than(100_000), pytest.raises(StorageUnavailable):
        storage.put(KEY, DATA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_ledger_whose_disk_is_full_promises_nothing(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/kinora.db")
    ledger.migrate()
    with ledger.database.connect() as connection:
        pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()

    @sa.event.listens_for(ledger.database, "begin")
    def no_more_pages(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    made = []

    def create_many() -> None:
        for _ in range(1000):
            ledger.create(new := new_task())
            made.append(new.task_id)

    with pytest.raises(LedgerUnavailable, match="full"):
        create_many()
    assert [task.task_id for task in ledger.tasks(status=None, after=None, limit=200)][::-1] == made[:200]
    ledger.close()


def test_a_sqlite_that_another_process_holds_is_waited_for_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.db.database.BUSY_TIMEOUT_MS", 300)
    ledger = Ledger(f"sqlite:///{tmp_path}/kinora.db")
    ledger.migrate()
    other = sa.create_engine(f"sqlite:///{tmp_path}/kinora.db").connect()
    other.exec_driver_sql("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        ledger.create(new_task())
    other.close()
    assert ledger.create(new_task())
    ledger.close()
