"""Where callers want to be told, on both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor

from core.callbacks.endpoints import MAX_ENDPOINTS
from core.errors import InvalidParameter
from core.ledger.moves import Ledger


def test_endpoints_registered_at_the_same_time_do_not_pass_together(ledger: Ledger) -> None:
    for number in range(MAX_ENDPOINTS - 2):
        ledger.endpoints.register("ann", f"https://example.com/{number}", [])

    barrier = threading.Barrier(8)

    def register(number: int) -> bool:
        with ledger.database.connect():  # all have their connection, and begin together
            barrier.wait()
        try:
            ledger.endpoints.register("ann", f"https://example.com/more/{number}", [])
        except InvalidParameter:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(register, range(32))) == 2
    assert len(ledger.endpoints.all("ann")) == MAX_ENDPOINTS
    ledger.endpoints.register("bob", "https://example.com/", [])


def test_one_that_is_known_may_change_though_there_are_as_many_as_may_be(ledger: Ledger) -> None:
    for number in range(MAX_ENDPOINTS):
        ledger.endpoints.register("ann", f"https://example.com/{number}", [])
    assert ledger.endpoints.register("ann", "https://example.com/0", ["task.started"]).events == ["task.started"]
