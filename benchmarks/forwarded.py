"""What a master outside of Kubernetes pays: ``python benchmarks/forwarded.py``.

A scheduler and a worker run as their pods would, behind the tests' double of an API server, which is of Python too, in
this process. Beside calls and transfers through ports that are forwarded are those over TLS to the same worker. There
is no network in between: this is the work of all the hands that each message passes through.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from baselines import interleave, mean_time
from report import Row, at_most, bandwidth, run

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from api_server import ApiServer
from pods import RunningPods

import farcall as fc
from farcall._engines.base import Launched, Offer
from farcall._engines.dask import Dask, make_security
from farcall._errors import LaunchError

_SIZE = 40_000_000
_ROUNDS = 5


class OverTls(Dask):
    """The workers of a Dask cluster by the last of their addresses, as if they were on other hosts."""

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        for each in super().launch(offer):
            yield replace(each, address=each.address.split()[-1]) if isinstance(each, Launched) else each


def noop(*_: object) -> None:
    """Return nothing."""


def make_array() -> np.ndarray:
    """Return an array of 40 MB."""
    return np.ones(_SIZE // 8)


def past(server: ApiServer, pods: RunningPods) -> OverTls:
    """Return an engine that reaches the workers past the API server."""
    ca, certificate, key = (server.read_secret("farcall-tls")[name] for name in ("ca.crt", "tls.crt", "tls.key"))
    [scheduler] = pods.all("scheduler")
    return OverTls(f"tls://{scheduler['status']['podIP']}:8786", security=make_security((ca, certificate, key)))


def measure(server: ApiServer, pods: RunningPods) -> Iterator[Row]:
    """Yield what calls and large arrays take through the API server, and past it."""
    data = make_array()
    with fc.addprocs(fc.engines.Kubernetes(workers=1)) as [through], fc.addprocs(past(server, pods)) as [direct]:
        kinds = {
            "remotecall_fetch, a no-op": lambda pid: mean_time(partial(fc.remotecall_fetch, pid, noop), 300),
            "40 MB as an argument": lambda pid: mean_time(partial(fc.remotecall_fetch, pid, noop, data), 1),
            "40 MB as a result": lambda pid: mean_time(partial(fc.remotecall_fetch, pid, make_array), 1),
        }
        for what, time in kinds.items():
            interleave(1, partial(time, through), partial(time, direct))
            times = interleave(_ROUNDS, partial(time, through), partial(time, direct))
            row = f"{what}, through the API server / past it"
            yield bandwidth(row, _SIZE, *times) if "MB" in what else at_most(row, *times)


def main() -> None:
    """Measure, and print."""
    os.environ["FARCALL_SHARED_MINIMUM"] = str(1 << 40)  # other hosts share no memory
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder)) as server:
        os.environ["KUBECONFIG"] = server.kubeconfig
        pods = RunningPods(server, Path(folder))
        try:
            run(measure(server, pods))
        finally:
            pods.close()


if __name__ == "__main__":
    main()
