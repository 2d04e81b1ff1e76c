"""How much the ledger holds of a task, in bytes: what a caller sends must not be there many times."""

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from core.callbacks.endpoints import CallbackEvent
from core.config.settings import Settings
from core.db.tables import metadata, tasks
from core.engines.known import find_engine
from core.ledger.moves import Ledger
from core.plan.clip import clip_graph
from core.plan.content_key import content_keys
from core.requests.clip import ClipRequest
from core.requests.resolve import resolve
from core.task import Callback, Dialect, NewTask
from tests.conftest import artifacts_at, input_for, new_task

SETTINGS = Settings(_env_file=None)
PROMPT = "猫" * 4000
LONG = {"engine": "svd-xt", "num_frames": 601, "fps": 30, "seed": 1}


def long_task(dialect: Dialect = Dialect.KINORA, callback: Callback | None = None) -> NewTask:
    """A clip of 30 parts and their join."""
    engine = find_engine("svd-xt", SETTINGS)
    clip, warnings = resolve(ClipRequest(prompt=PROMPT, **LONG), engine, SETTINGS)
    graph = clip_graph(clip, engine, "cpu", SETTINGS)
    new, keys = new_task("svd-xt"), content_keys(graph, {"picture": "0" * 64}, SETTINGS)
    planned = {"steps": graph.new_steps(keys), "result_step": graph.result_step, "inputs": [input_for(new.task_id)]}
    said = {"params": clip.model_dump(exclude_none=True), "warnings": warnings}
    return replace(new, dialect=dialect, callback=callback, **planned, **said)


def text_of(ledger: Ledger) -> str:
    """Return all cells of all tables, as they stand there."""
    found = []
    with ledger.database.connect() as connection:
        for table in metadata.sorted_tables:
            columns = [sa.cast(sa.type_coerce(column, sa.Text), sa.Text) for column in table.columns]
            found += [str(cell) for row in connection.execute(sa.select(*columns)) for cell in row]
    return "\n".join(found)


def end_by(how: str, ledger: Ledger, task_id: str) -> None:
    if how == "canceled":
        ledger.cancel(task_id)
    while claim := ledger.claim_next("gpu", "w", 60):
        ledger.finish(claim, artifacts_at(video="k"), {"parameters": {"seed": 1}, "colours": {}}, {})
    assert ledger.task(task_id).status == how


@pytest.mark.parametrize("how", ["canceled", "finished"])
def test_a_prompt_stands_once_in_the_ledger_as_it_was_written(ledger: Ledger, how: str) -> None:
    told = Callback("https://told.example/", list(CallbackEvent))
    for number in range(3):
        ledger.endpoints.register("", f"https://{number}.example/", list(CallbackEvent))
    ledger.create(new := long_task(Dialect.REPLICATE, told))
    end_by(how, ledger, new.task_id)
    written = text_of(ledger)
    assert written.count(PROMPT) == 1
    assert "\\u" not in written
    assert len(written.encode()) - len(PROMPT.encode()) < 200_000


def test_an_attempt_is_given_the_prompt_with_its_task(ledger: Ledger) -> None:
    ledger.create(long_task())
    claim = ledger.claim_next("gpu", "w", 60)
    assert claim
    assert claim.task.params["prompt"] == PROMPT


def test_json_of_an_older_version_with_escapes_is_read_as_it_was_meant(ledger: Ledger) -> None:
    ledger.create(new := long_task())
    escaped = sa.update(tasks).where(tasks.c.task_id == new.task_id)
    with ledger.database.begin() as connection:
        connection.execute(escaped.values(params=sa.literal_column(f"'{json.dumps(new.params)}'")))
    assert "\\u" in text_of(ledger)
    assert ledger.task(new.task_id).params["prompt"] == PROMPT
