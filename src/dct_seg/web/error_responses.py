"""Error responses: always JSON with one line, ``{"error": ...}``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


def problem(status: int, error: str, **more: Any) -> JSONResponse:
    """Error response with a one-line message.

    Args:
        status: HTTP status.
        error: Message.
        more: Additional fields.
    """
    return JSONResponse({"error": " ".join(error.split()), **more}, status_code=status)


def malformed(schema_url: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Handler for requests that violate the schema: 422, with the wrong fields.

    Args:
        schema_url: Path of the OpenAPI schema.
    """

    async def handle(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [
            f"{'.'.join(str(part) for part in one['loc'][1:]) or one['loc'][0]}: {one['msg']}"
            for one in error.errors()[:3]
        ]
        return problem(422, f"{'; '.join(found)}; {schema_url} describes the expected request"[:1000])

    return handle


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Handler for errors of the framework, such as an unknown path."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))
