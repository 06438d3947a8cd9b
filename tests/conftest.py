"""Every test leaves the process as it found it: no processes, threads, descriptors or shared memory."""

import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from family import find_children
from hosts import Hosts, missing
from waiting import until

import farcall as fc
from farcall._cluster import shutdown


def _children() -> set[int]:
    return {each.pid for each in find_children(recursive=True)}


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _shared() -> set[str]:
    """What lies in shared memory, but for what other programs put there."""
    foreign = ("sem.", "joblib_", "libpod_", "mpich_", "vader_segment")
    return {name for name in os.listdir("/dev/shm") if not name.startswith(foreign)}


def _own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("farcall")}


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_at() -> None:
    """Have the search for cycles after each test leave out what was there before its module: a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a thread, a descriptor or shared memory behind."""
    if "cluster" in request.fixturenames or fc.nprocs() > 1:
        yield  # checked when the cluster of the module goes
        return
    before = _children(), _own_threads(), set(_descriptors().items()), _shared()
    yield
    shutdown()
    check_nothing_leaked(*before)


def check_nothing_leaked(
    children: set[int], threads: set[threading.Thread], descriptors: set[tuple[str, str]], shared: set[str]
) -> None:
    gc.collect()
    assert until(lambda: _children() <= children), f"processes left: {_children() - children}"
    assert until(lambda: _own_threads() <= threads), f"threads left: {_own_threads() - threads}"
    assert until(lambda: len(_descriptors()) <= len(descriptors)), (
        f"descriptors left: {sorted(set(_descriptors().items()) - descriptors)[:20]}"
    )
    assert until(lambda: _shared() <= shared), f"shared memory left: {_shared() - shared}"


@pytest.fixture(scope="session")
def require() -> Callable[[object, str], None]:
    """Return a function that skips a test which lacks what it needs; in CI, where .ci/run installs it, it fails."""

    def check(found: object, reason: str) -> None:
        if not found and os.environ.get("CI"):
            pytest.fail(f"in CI this must be there: {reason}")
        if not found:
            pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Dask cluster of two workers under nannies for all tests, which must leave it as it was."""
    from dask_cluster import DaskCluster  # here: to import Dask changes how this process pickles exceptions

    made = DaskCluster(tmp_path_factory.mktemp("dask"), 2)
    yield made
    made.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that say so on workers of each engine."""
    marked = metafunc.definition.get_closest_marker
    if marked("on_every_engine") and "cluster" in metafunc.fixturenames:
        engines = ["local"] if marked("needs_main_thread") else ["local", "dask"]
        metafunc.parametrize("cluster", engines, indirect=True, scope="module")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Two workers for a whole module, whose tests must not remove them; of this machine, or of the engine asked for."""
    of_dask = getattr(request, "param", "local") == "dask"
    what = request.getfixturevalue("dask").address if of_dask else 2
    before = _children(), _own_threads(), set(_descriptors().items()), _shared()
    pids = fc.addprocs(what)
    yield list(pids)
    shutdown()
    check_nothing_leaked(*before)


@pytest.fixture(scope="module")
def hosts(require: Callable[[object, str], None]) -> Iterator[Hosts]:
    """Three hosts on a network of their own for a whole module, whose tests must leave them as they were."""
    lacking = missing()
    require(not lacking, f"hosts for tests need {lacking}")
    before = _children(), _own_threads(), set(_descriptors().items()), _shared()
    with Hosts(3) as made:
        yield made
    check_nothing_leaked(*before)


@pytest.fixture(scope="module")
def notebook(dask: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Jupyter kernel with two workers for a whole module, whose tests must leave it idle. Dask is there before it."""
    from notebook import open_notebook

    before = _children(), _own_threads(), set(_descriptors().items()), _shared()
    with open_notebook(tmp_path_factory.mktemp("notebook")) as opened:
        opened.run("%load_ext farcall\nimport farcall as fc\nfc.addprocs(2)")
        yield opened
    check_nothing_leaked(*before)


@pytest.fixture(scope="module")
def path_to_hosts(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH for programs, on which ssh knows the hosts by their names."""
    folder = tmp_path_factory.mktemp("bin")
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {hosts.ssh_config} "$@"\n')
    ssh.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
