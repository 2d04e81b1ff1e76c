"""A short run of scripts/fuzz, which docs/security.md has the figures of a long one."""

from pathlib import Path

import pytest

from fuzz.__main__ import fuzz_routes, row


@pytest.mark.parametrize("with_keys", [False, True])
def test_no_request_breaks_the_service_or_is_answered_as_the_document_does_not_say(
    tmp_path: Path, with_keys: bool
) -> None:
    found = row("", fuzz_routes(tmp_path / "stack", examples=3, seed=1, with_keys=with_keys))
    assert found["cases"] > 300
    assert found["operations"] >= 39
    assert found["finished tasks"] >= 5, "hardly a request came as far as a worker"
    assert found["all failures"] == 0, "what failed is printed above"
