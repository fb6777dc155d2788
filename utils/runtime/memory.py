"""How much memory a process took."""

from __future__ import annotations

import re
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def describe_peak(device: torch.device, status: Path = STATUS) -> str:
    r"""Say the most memory that this process held since it began, and on the GPU.

    Parameters
    ----------
    device : torch.device
        Where the model is.
    status : Path
        What Linux says of the process; other systems have none, and nothing is said of their memory.

    Examples
    --------
    >>> import tempfile
    >>> status = Path(tempfile.mkdtemp()) / "status"
    >>> status.write_text("VmPeak:  9000000 kB\nVmHWM:   2500000 kB\nVmRSS:    100 kB\n")
    57
    >>> describe_peak(torch.device("cpu"), status), describe_peak(torch.device("cpu"), status.with_name("none"))
    ('at most 2.56 GB of memory', '')
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    parts = [f"{1024 * int(found[1]) / 1e9:.2f} GB of memory"] if found else []
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB of {device}")
    return f"at most {' and '.join(parts)}" if parts else ""
