"""The router that each module of app/routes puts its routes on."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends

from app import errors
from app.services import needs_key


def create_router(dependencies: Sequence[Depends] = (needs_key,), **options: Any) -> APIRouter:
    """Return a router whose routes are documented as wanting a key, with the errors that any route can give.

    Who calls is found out before, by app/middleware/auth.py."""
    return APIRouter(
        dependencies=dependencies,
        responses=errors.everywhere(),
        generate_unique_id_function=lambda route: route.name,
        **options,
    )


def install(app: FastAPI, *routers: APIRouter) -> None:
    """Give `app` the routes as they are. `include_router` would have FastAPI build each again when the first request
    comes, and look through every router at each request."""
    for router in routers:
        app.router.routes.extend(router.routes)
