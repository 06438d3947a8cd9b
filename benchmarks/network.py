"""Several hosts on this machine, for benchmarks: those of the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from hosts import Host, Hosts, cpu_groups, missing, set_quota

__all__ = ["Host", "Hosts", "cpu_groups", "missing", "set_quota"]
