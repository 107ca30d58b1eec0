"""Measure the built-in benchmark from Python (python examples/evaluate.py).

The folder is that of `make demo`: what the demo has scored is not scored again.
"""

import remid
from remid.data import mini_benchmark_paths

benchmark, responses = mini_benchmark_paths()
run = remid.evaluate(benchmark, out="runs/demo", responses=responses)
for row in run.rows("remid", unit="nats/response", subset=None):
    print(row["policy"], row["shift"], row["value"], (row["ci_low"], row["ci_high"]), row["p_adjusted"])
