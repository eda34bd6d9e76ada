"""Answers to mistakes: always JSON with one line, ``{"error": ...}``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


def problem(status: int, error: str, **more: Any) -> JSONResponse:
    """An answer of one line.

    Args:
        status: HTTP status.
        error: The line.
        more: Further fields.
    """
    return JSONResponse({"error": " ".join(error.split()), **more}, status_code=status)


def malformed(schema_url: str) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Handler of requests that the schema does not allow: 422, and the fields that are wrong.

    Args:
        schema_url: Path of the OpenAPI schema.
    """

    async def handle(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [
            f"{'.'.join(str(part) for part in one['loc'][1:]) or one['loc'][0]}: {one['msg']}"
            for one in error.errors()[:3]
        ]
        return problem(422, f"{'; '.join(found)}; {schema_url} shows what is taken"[:1000])

    return handle


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of errors that the framework raises, such as an unknown path."""
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))
