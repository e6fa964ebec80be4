"""`GET /docs`: the OpenAPI page for people, shown by Swagger UI, which comes from its publisher's network."""

import base64
import hashlib
import re

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from service.api.auth import page_headers

SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page, with leave for Swagger UI, for the one script that starts it, and for nothing else."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url=f"{SWAGGER}swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER}swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    (start,) = re.findall(rb"<script>(.*?)</script>", page.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(start).digest()).decode()
    page.headers.update(
        page_headers(
            f"default-src 'none'; connect-src 'self'; img-src data:; "
            f"script-src {SWAGGER} 'sha256-{digest}'; style-src {SWAGGER} 'unsafe-inline'"
        )
    )
    return page
