"""The Model Context Protocol, by which an assistant asks."""

from app.dialects.base import HttpDialect
from app.dialects.mcp import server

DIALECT = HttpDialect(routers=(server.router,), uploads="/mcp", pictures=("picture",))
