"""What the log of a process tells that no proof may pass over: crashes that nobody announced.

It reads both formats. It does not look at warnings: a store that is away is one, and so is a step that is lost.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSOLE = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[(?P<level>\w+) *\] (?P<event>.+?)(?:\s{2,}.*|\s\[[\w.]+\].*)?$")
CRASHED = ("error", "critical")
# What a process prints that cannot log any more, or not yet.
LAST_WORDS = re.compile(
    r"Traceback \(most recent call last\)|Fatal Python error|Timeout \(\d|Exception in thread|Exception ignored in"
    r"|Segmentation fault|terminate called|panicked at"
)

# What faults explain, as `Entry.summary` begins: a Redis that goes away makes RQ give up, and the worker's own loop
# begins anew; with an exception of any other library RQ's words are those of a crash.
REDIS_FAULTS = frozenset(
    {
        r"Worker \w+: could not connect to Redis instance",
        r"Worker \w+: Redis connection timeout, quitting",
        r"Worker \w+: found an unhandled exception, quitting\.\.\.: redis\.exceptions\.",
    }
)


@dataclass
class Entry:
    """A line of the log, with what follows it until the next: a traceback, say."""

    level: str
    event: str
    text: str
    exception: str = ""

    @property
    def summary(self) -> str:
        """The event, and the last line of the traceback, which has the type of what was raised."""
        *_, last = (self.exception or self.text).splitlines()
        return self.event if last == self.text else f"{self.event}: {last}"


def crashes_in(folder: Path, announced: Collection[str] = ()) -> list[str]:
    """Of every log there: the crashes that none of `announced`, patterns of how a summary begins, fits."""
    logs = sorted(folder.glob("*.log"))
    return [f"{log.name}: {crash}" for log in logs for crash in crashes(log.read_text(errors="replace"), announced)]


def crashes(text: str, announced: Collection[str] = ()) -> list[str]:
    crashed = [entry for entry in entries(text) if entry.level in CRASHED]
    return [entry.text for entry in crashed if not any(re.match(pattern, entry.summary) for pattern in announced)]


def entries(text: str) -> Iterator[Entry]:
    entry, before = None, ""
    for line in text.splitlines():
        begun = begins(line)
        # An entry's own traceback comes right behind its line, and those that led to it are parted by empty lines.
        goes_on = entry and entry.level in CRASHED and before in ("", entry.text)
        if begun is None and LAST_WORDS.search(line) and not goes_on:
            begun = Entry("critical", line.strip(), line)
        before = line
        if begun:
            if entry:
                yield entry
            entry = begun
        elif entry and line:
            entry.text += f"\n{line}"
    if entry:
        yield entry


def begins(line: str) -> Entry | None:
    """The entry that `line` begins; None: it goes on with the one before."""
    if line.startswith("{"):
        try:
            said: dict[str, Any] = json.loads(line)
            return Entry(said["level"], str(said["event"]), line, said.get("exception", ""))
        except (ValueError, KeyError):
            return None
    found = CONSOLE.match(line)
    return Entry(found["level"], found["event"], line) if found else None
