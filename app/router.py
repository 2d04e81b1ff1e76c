"""The router that each module of app/routes puts its routes on."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute

from app import errors
from app.services import needs_key
from app.strict_json import JsonRoute, check_each_once


async def each_query_once(request: Request) -> None:
    """Raises InvalidParameter for a parameter that the query has twice."""
    check_each_once(name for name, _ in request.query_params.multi_items())


def create_router(
    dependencies: Sequence[Dependency] = (needs_key,), route_class: type[APIRoute] = JsonRoute, **options: Any
) -> APIRouter:
    """Return a router whose routes are documented as wanting a key, with the errors that any route can give, and which
    take nothing that is there twice.

    Who calls is found out before, by app/middleware/auth.py."""
    return APIRouter(
        dependencies=[*dependencies, Depends(each_query_once)],
        route_class=route_class,
        responses=errors.everywhere(),
        generate_unique_id_function=lambda route: route.name,
        **options,
    )


def install(app: FastAPI, *routers: APIRouter) -> None:
    """Give `app` the routes as they are. `include_router` would have FastAPI build each again when the first request
    comes, and look through every router at each request."""
    for router in routers:
        app.router.routes.extend(router.routes)


def answer_head(app: FastAPI) -> None:
    """Have each GET route of `app` answer HEAD too: the server sends what it would have sent, without the body."""
    for route in [route for route in app.routes if isinstance(route, APIRoute) and "GET" in (route.methods or ())]:
        head = copy(route)
        head.methods, head.include_in_schema = {"HEAD"}, False
        app.router.routes.append(head)
