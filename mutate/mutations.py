"""Mutations: plausible faults as data. Each says which text of which file becomes which, and which tests are near."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("mutations.toml")


class DoesNotApply(Exception):
    """The text to be replaced is not in its file exactly once."""


@dataclass(frozen=True)
class Mutation:
    name: str
    kind: str
    """What is broken: a default, a limit, a unit, an owner, a fence, a retry, a link, an order, …"""
    file: str
    before: str
    after: str
    tests: list[str]
    """As pytest names them; one of them is to turn red."""

    def applied(self, root: Path = ROOT) -> str:
        """Its file's text under `root`, with the fault in it. Raises DoesNotApply."""
        text = (root / self.file).read_text()
        found = text.count(self.before)
        if found != 1:
            raise DoesNotApply(f"{self.name}: what it replaces is {found} times in {self.file}")
        return text.replace(self.before, self.after)


def read_mutations() -> list[Mutation]:
    """All of them, in the order of the list."""
    return [Mutation(**entry) for entry in tomllib.loads(FILE.read_text())["mutation"]]
