"""Benchmark of all methods on all datasets."""

from dct_seg.benchmark.compare import compare, compare_runs
from dct_seg.benchmark.results import Results, load_results
from dct_seg.benchmark.runner import run_benchmark
from dct_seg.benchmark.tables import markdown

__all__ = ["Results", "compare", "compare_runs", "load_results", "markdown", "run_benchmark"]
