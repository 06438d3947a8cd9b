"""What hosts cost that SSH reaches: ``python benchmarks/ssh.py`` prints each quantity beside what it is made of.

The hosts are those of the tests: namespaces of this machine, each with an sshd, on a network that costs nothing. So
this is what the programs take, to which a real network adds the time of its packets. Each measurement is the median of
its rounds, and those of a ratio take turns. Needs root, and the programs that ``tests/hosts.py`` uses.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from baselines import clock, interleave, mean_time
from network import Hosts, missing
from report import Row, at_most, bandwidth, duration, run

import farcall as fc

_LARGE = 20_000_000


def noop() -> None:
    """Do nothing."""


def seconds(action: Callable[[], object]) -> float:
    started = clock()
    action()
    return clock() - started


def start(hosts: list[Any], options: dict[str, Any]) -> float:
    """Return the seconds that workers take to come up."""
    started = clock()
    with fc.addprocs(hosts, **options):
        return clock() - started


def measure_starts(rounds: int, config: str) -> Iterator[Row]:
    """Yield what addprocs takes."""
    options = {"ssh_options": {"-F": config}}
    login = ["ssh", "-F", config, "host1", f"{sys.executable} -c 'import farcall'"]
    log_in = partial(subprocess.run, login, check=True, stdin=subprocess.DEVNULL)
    one, tunnelled, three, local, command = interleave(
        rounds,
        partial(start, ["host1"], options),
        partial(start, ["host1"], options | {"tunnel": True}),
        partial(start, ["host1", "host2", "host3"], options),
        lambda: start(1, {}),  # type: ignore[arg-type]
        partial(seconds, log_in),
    )
    yield Row("ssh host1 python -c 'import farcall'", duration(command))
    yield Row("addprocs(1)", duration(local))
    yield at_most("addprocs(['host1']) / both of these", one, command + local, 1.5)
    yield at_most("addprocs(['host1'], tunnel=True) / both of these", tunnelled, command + local, 1.5)
    yield Row("addprocs(['host1', 'host2', 'host3'])", duration(three))


def between_workers(pid: int, other: int, count: int) -> float:
    """Return what a call from one worker to another takes."""
    return fc.remotecall_fetch(pid, mean_time, partial(fc.remotecall_fetch, other, noop), count)


def measure_calls(rounds: int, config: str) -> Iterator[Row]:
    """Yield what calls take, straight to the hosts and through SSH."""
    options = {"ssh_options": {"-F": config}}
    direct = fc.addprocs(["host1", "host2"], **options)
    tunnel = fc.addprocs(["host1", "host2"], tunnel=True, **options)
    data = bytes(_LARGE)
    calls = [partial(mean_time, partial(fc.remotecall_fetch, pid, noop), 200) for pid in (direct[0], tunnel[0])]
    pairs = [partial(between_workers, *pids, 200) for pids in (direct, tunnel)]
    loads = [partial(seconds, partial(fc.remotecall_fetch, pid, len, data)) for pid in (direct[0], tunnel[0])]
    straight, through = interleave(rounds, *calls)
    yield Row("call and answer", duration(straight))
    yield at_most("call and answer through a tunnel / straight", through, straight)
    straight, through = interleave(rounds, *pairs)
    yield Row("call and answer between workers of two hosts", duration(straight))
    yield at_most("the same through two tunnels and the master / straight", through, straight)
    straight, through = interleave(rounds, *loads)
    yield bandwidth("20 MB to a worker through a tunnel / straight", _LARGE, through, straight)
    fc.rmprocs(direct, tunnel)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 9
    if lacking := missing():
        sys.exit(f"the hosts need {lacking}")
    with Hosts(3) as hosts:
        config = str(hosts.ssh_config)
        run(row for measure in (measure_starts, measure_calls) for row in measure(rounds, config))
