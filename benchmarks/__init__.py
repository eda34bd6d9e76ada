"""Speed evidence for docs/speed.md.

``python -m benchmarks`` measures each thing beside what it is compared with.
"""
