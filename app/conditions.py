"""The conditions under which a file is asked for (RFC 9110, section 13)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime

from starlette.datastructures import Headers

from core.errors import PreconditionFailed

TAG = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True)
class Validators:
    """What tells one version of a file from another."""

    etag: str
    """A strong one, in its quotes."""
    modified_at: float | None = None
    """In seconds since 1970; None: unknown."""

    @property
    def headers(self) -> Mapping[str, str]:
        date = {} if self.modified_at is None else {"Last-Modified": formatdate(int(self.modified_at), usegmt=True)}
        return {"ETag": self.etag} | date

    def check(self, asked: Headers) -> None:
        """Raises PreconditionFailed."""
        tags, since = whole_header(asked, "if-match"), seconds_in(asked.get("if-unmodified-since"))
        if tags:
            if not self._is_in(tags, weakly=False):
                raise PreconditionFailed("If-Match does not name what is there", param="If-Match")
        elif since is not None and self._is_newer(since):
            raise PreconditionFailed("it is newer than If-Unmodified-Since says", param="If-Unmodified-Since")

    def is_known(self, asked: Headers) -> bool:
        """Return whether the caller has this version already."""
        tags, since = whole_header(asked, "if-none-match"), seconds_in(asked.get("if-modified-since"))
        if tags:
            return self._is_in(tags, weakly=True)
        return since is not None and self.modified_at is not None and not self._is_newer(since)

    def is_rest(self, asked: Headers) -> bool:
        """Return whether a part of this version goes with what the caller has of it: by If-Range, if that is there."""
        tag = asked.get("if-range")
        if tag is None or tag == self.etag:
            return True
        return self.modified_at is not None and seconds_in(tag) == int(self.modified_at)

    def _is_in(self, tags: str, weakly: bool) -> bool:
        return tags == "*" or any(tag == self.etag and (weakly or not weak) for weak, tag in TAG.findall(tags))

    def _is_newer(self, since: float) -> bool:
        return self.modified_at is not None and int(self.modified_at) > since


def whole_header(asked: Headers, name: str) -> str:
    """Return all that stands in a header, which may come in several lines."""
    return ", ".join(asked.getlist(name)).strip()


def seconds_in(date: str | None) -> float | None:
    """Return what an HTTP date means, in seconds since 1970; None for what is no date, which counts as not sent."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError):
        return None
