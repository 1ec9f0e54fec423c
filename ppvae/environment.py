"""What numbers depend on beside the options: versions, device and commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ppvae import __version__


def environment() -> dict[str, Any]:
    """Versions, platform, device and git commit; nothing that names the machine, its user or a path."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    import numpy
    import pyro
    import safetensors
    import torch

    return {
        "ppvae": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
    }


def processor() -> str:
    """The name of the processor."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the folder that one works in, with `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
