"""More orders of moves than fit into a run of all tests."""

import pytest

from tests.contracts.test_ledger_model import play


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_no_order_of_moves_of_hundreds_breaks_a_promise(
    backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.retries.RETRY_PAUSES", (0.0,))
    assert play(backend, 300, request) >= 300
