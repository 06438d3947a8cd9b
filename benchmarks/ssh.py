"""What hosts cost that SSH reaches: ``python benchmarks/ssh.py`` prints each quantity beside what it is made of.

The hosts are those of the tests: namespaces of this machine, each with an sshd, on a network that costs nothing. So
this is what the programs take, to which a real network adds the time of its packets. Each measurement is the median of
its rounds, and those of a ratio take turns. Needs root, and the programs that ``tests/hosts.py`` uses.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from baselines import clock, interleave, mean_time, placed
from network import Hosts, echo_on, missing
from peers import MESSAGE
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


def measure_starts(rounds: int, hosts: Hosts) -> Iterator[Row]:
    """Yield what addprocs takes."""
    config = str(hosts.ssh_config)
    options = {"ssh_options": {"-F": config}}
    login = ["ssh", "-F", config, "host1", f"{sys.executable} -c 'import farcall'"]
    log_in = partial(subprocess.run, login, check=True, stdin=subprocess.DEVNULL)
    one, tunnelled, six, local, command = interleave(
        rounds,
        partial(start, ["host1"], options),
        partial(start, ["host1"], options | {"tunnel": True}),
        partial(start, [("host1", 2), ("host2", 2), ("host3", 2)], options),
        lambda: start(1, {}),  # type: ignore[arg-type]
        partial(seconds, log_in),
    )
    yield Row("ssh host1 python -c 'import farcall'", duration(command))
    yield Row("addprocs(1)", duration(local))
    yield at_most("addprocs(['host1']) / both of these", one, command + local, 1.5)
    yield at_most("addprocs(['host1'], tunnel=True) / both of these", tunnelled, command + local, 1.5)
    yield Row("addprocs([('host1', 2), ('host2', 2), ('host3', 2)])", duration(six))


def between_workers(pid: int, other: int, count: int) -> float:
    """Return what a call from one worker to another takes."""
    return fc.remotecall_fetch(pid, mean_time, partial(fc.remotecall_fetch, other, noop), count)


def measure_calls(rounds: int, hosts: Hosts) -> Iterator[Row]:
    """Yield what calls take, straight to the hosts and through SSH; the first host has a core to itself."""
    options = {"ssh_options": {"-F": str(hosts.ssh_config)}}
    with (
        fc.addprocs([("host1", 2), "host2"], **options) as direct,
        fc.addprocs(["host1", "host2"], tunnel=True, **options) as tunnel,
        echo_on(hosts[0], MESSAGE) as echo,
    ):
        names = {pid: fc.remotecall_fetch(pid, socket.gethostname) for pid in direct}
        here, beside, there = sorted(direct, key=names.__getitem__)
        actions = {
            "over TLS": partial(fc.remotecall_fetch, here, noop),
            "through a tunnel": partial(fc.remotecall_fetch, tunnel[0], noop),
        }
        times = [partial(mean_time, action, 200) for action in actions.values()]
        between = {
            "between two workers of one host": (here, beside),
            "between workers of two hosts": (here, there),
            "between workers of two hosts, through tunnels and the master": tuple(tunnel),
        }
        times += [partial(between_workers, *pids, 200) for pids in between.values()]
        for measured in times:
            measured()
        first, *_, last = sorted(os.sched_getaffinity(0)) * 2
        places = [(process, {last if host is hosts[0] else first}) for host in hosts for process in host.processes()]
        with placed((os.getpid(), {first}), *places):
            raw, *taken = interleave(rounds, lambda: mean_time(echo, 1000), *times)
        for what, one in zip([*actions, *between], taken, strict=True):
            yield at_most(f"call {what}, over a raw TCP echo", one, raw)
        data = bytes(_LARGE)
        loads = [partial(seconds, partial(fc.remotecall_fetch, pid, len, data)) for pid in (here, tunnel[0])]
        straight, through = interleave(rounds, *loads)
        yield bandwidth("20 MB to a worker through a tunnel / straight", _LARGE, through, straight)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else 9
    if lacking := missing():
        sys.exit(f"the hosts need {lacking}")
    with Hosts(3) as hosts:
        run(row for measure in (measure_starts, measure_calls) for row in measure(rounds, hosts))
