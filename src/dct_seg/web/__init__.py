"""Parts shared by all HTTP interfaces: request checks, schemas, error responses, the socket."""

FARTHEST = 1e6
"""Largest accepted coordinate or length in pixels; larger values are mistakes."""
