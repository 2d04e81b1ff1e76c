"""One service for all clients: two keys, a worker for the preview engine, nothing faked."""

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import av
import pytest

from core.config.settings import Settings
from core.ledger.moves import Ledger
from harness.servers import free_port
from harness.stack import Stack, running_stack


class Service(NamedTuple):
    stack: Stack
    url: str
    ann: str
    bob: str
    """Two keys."""
    hooks: int
    """A port of this machine that callbacks may go to."""


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    ledger = Ledger(Settings(_env_file=None, data_dir=folder / "data").resolved_database_url)
    ledger.migrate()
    ann, bob = (ledger.keys.create(name)[1] for name in ("ann", "bob"))
    ledger.close()
    hooks = free_port()
    with running_stack(folder, AUTH="keys", ENGINE="preview", FETCH_ALLOW=f"127.0.0.1:{hooks}") as stack:
        yield Service(stack, stack.url, ann, bob, hooks)


def frames_of(mp4: bytes) -> tuple[int, int, int]:
    """How many there are, and their width and height."""
    with av.open(BytesIO(mp4)) as container:
        frames = [frame.to_image().size for frame in container.decode(video=0)]
    return len(frames), *frames[0]
