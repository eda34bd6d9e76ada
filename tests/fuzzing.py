"""Fuzzing of an HTTP interface with requests from its own schema."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    schemathesis.checks.not_a_server_error,
    response_schema_conformance,
    content_type_conformance,
    status_code_conformance,
]


def with_known(app: Any, path: str, known: dict[str, list[Any]]) -> Any:
    """Schema of an application's interface, with existing parameter values among those to try.

    Args:
        app: A FastAPI application.
        path: Path of its schema.
        known: Values to try by the parameter's name.
    """
    described = app.openapi()
    for operations in described["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    values = known[parameter["name"]]
                    kind = "string" if isinstance(values[0], str) else "integer"
                    parameter["schema"] = {"type": kind, "enum": values}
    app.openapi_schema = described
    return schemathesis.openapi.from_asgi(path, app)


def try_all(api: Any) -> int:
    """Send requests to every operation and check each response against the schema.

    Returns:
        Number of operations.
    """
    operations = [found.ok() for found in api.get_all_operations()]
    for operation in operations:

        @settings(
            max_examples=5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def try_it(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        try_it()
    return len(operations)
