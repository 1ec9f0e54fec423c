"""Train every pair as `ppvae train PAIR` does and record what it reached on its test data.

    python benchmarks/pairs.py --out benchmarks/results/pairs.json [--pairs vae conv_vae] [--threads 2]

One entry a pair: elbo, log p(x) with its K, standard errors, steps, seconds of training and of evaluation,
versions of everything. Pairs already in the file are kept unless named. `benchmarks/readme.py` makes the
README's table from it.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy
import pyro
import torch

import ppvae
from ppvae.evaluation import evaluate
from ppvae.registry import names
from ppvae.training import fit

KEPT = (
    "elbo", "elbo_stderr", "log_likelihood", "log_likelihood_stderr", "bits_per_dim", "rate", "distortion",
    "active_units", "k", "n", "n_elbo", "data", "binarization", "data_hash", "reasons", "seconds",
)  # fmt: skip


def measure(name: str, threads: int | None) -> dict:
    """Train one pair with the options that the command line has by default, its own among them."""
    started = time.monotonic()
    trained = fit(name, threads=threads, progress=False)
    seconds = time.monotonic() - started
    assert trained.dataset is not None
    config = trained.config
    results = evaluate(trained.built, trained.dataset, k=config.eval_k, n=config.eval_n)
    return {
        **{key: results[key] for key in KEPT if key in results},
        "train_seconds": seconds,
        "steps": trained.step,
        "config": config.to_dict(),
    }


def versions(threads: int | None) -> dict:
    return {
        "ppvae": ppvae.__version__,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="*", default=names())
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else {"pairs": {}}
    for name in options.pairs:
        entry = measure(name, options.threads)
        results["pairs"][name] = entry | {"versions": versions(options.threads)}
        print(name, {k: entry[k] for k in ("elbo", "log_likelihood", "train_seconds", "seconds")}, flush=True)
        # Written after each pair: an interrupted run keeps what it has.
        scratch = Path(tempfile.mkstemp(dir=options.out.parent)[1])
        scratch.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        scratch.chmod(0o644)
        scratch.replace(options.out)


if __name__ == "__main__":
    main()
