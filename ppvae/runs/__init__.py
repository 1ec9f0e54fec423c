"""The folder of one training run: what was run, on what, and what came of it.

    runs/<pair>-<data>-<estimator>-<time>-<hex>/{config.yaml, env.json, metrics.jsonl, log.txt,
                                                 checkpoints/, figures/, .lock}
    runs/latest -> the newest of them

Anyone may read a run at any time. Whoever writes holds its lock, which names the writer's process and dies
with it. Nothing here knows training or imports torch, so that reading a run is quick.
"""

from ppvae.runs.folders import CONFIG
from ppvae.runs.run import Run

__all__ = ["CONFIG", "Run"]
