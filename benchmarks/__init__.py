"""Measurements behind docs/speed.md.

``python -m benchmarks`` measures each operation together with its reference.
"""
