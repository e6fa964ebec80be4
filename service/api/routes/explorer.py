"""`GET /`: the explorer, a page that shows what a model sees. Its files are static; it asks the public endpoints."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from service.api.browsers import page_headers

FOLDER = Path(__file__).parents[2] / "explorer"
PAGE = "index.html"


def make_router() -> APIRouter:
    """The page at `/` and each of its files under `/explorer/`, as they are now: there is no path to any other file."""
    router = APIRouter()
    files = StaticFiles(directory=FOLDER)
    # The model card's pictures are data: URLs.
    # Browsers keep what they have read, but ask each time whether it still holds.
    headers = page_headers("default-src 'self'; img-src 'self' data:") | {"Cache-Control": "no-cache"}

    async def answer(name: str, request: Request) -> Response:
        # No parts are sent: Starlette refuses wrong ranges in a shape that no other error has.
        request.scope["headers"] = [field for field in request.scope["headers"] if field[0] != b"range"]
        response = await files.get_response(name, request.scope)
        response.headers.update(headers)
        return response

    async def file(request: Request) -> Response:
        return await answer(request.scope["path"].rpartition("/explorer/")[2], request)

    for path in FOLDER.rglob("*.*"):
        name = path.relative_to(FOLDER).as_posix()
        if name != PAGE:
            router.add_api_route(f"/explorer/{name}", file, include_in_schema=False)

    @router.get("/", response_class=HTMLResponse)
    async def explorer(request: Request) -> Response:
        """A page for people: samples, latents, scores and the model itself, by the endpoints below."""
        return await answer(PAGE, request)

    return router
