"""GET / and /studio/…: the page for people. Its files lie in app/studio/ and go out as they are."""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

from app.middleware.security_headers import studio_policy

router = APIRouter()


def install(app: FastAPI) -> None:
    app.router.routes.extend(router.routes)
    app.state.studio = StaticFiles(directory=Path(__file__).parent.parent / "studio")
    app.mount("/studio", app.state.studio)


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    answer: Response = await request.app.state.studio.get_response("index.html", request.scope)
    answer.headers["Content-Security-Policy"] = studio_policy(request.app.state.settings)
    return answer
