"""The image in containers: every role for real, with no rights and a root file system that is read only."""

import contextlib
import json
import math
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from certificates import Authority
from containers import IMAGE, ROOT, Container, Podman, missing
from distributed import Client
from numba import njit
from waiting import until

import farcall as fc

pytestmark = [
    pytest.mark.timeout(480),  # for the image, where nothing of it is there yet and all else runs beside
    pytest.mark.filterwarnings("ignore:Mismatched versions"),  # of Python's patches, and of Dask's packages
]

HOME = "--volume=/home/farcall"  # which must be there to be written to, and goes with the container


@pytest.fixture(scope="module")
def podman(require: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman with the image, built from this repository."""
    require(not missing(), f"containers for tests need {missing()}")
    with Podman(tmp_path_factory.mktemp("podman")) as made:
        theirs = made("run", "--rm", made.find_base(), "python3", "-c", "import sys; print(*sys.version_info[:2])")
        ours = "{} {}".format(*sys.version_info)
        require(theirs == ours, f"functions travel between equal Pythons, and here is {ours}, in Debian {theirs}")
        made.build()
        yield made


@pytest.fixture(scope="module")
def scheduler(podman: Podman) -> Container:
    """A scheduler, which other containers know by that name, and two workers that were there before it."""
    for _ in range(2):
        podman.start("worker", "--nthreads", 1)
    made = podman.start("scheduler", options=["--network-alias=scheduler", "--publish=127.0.0.1::8786"])
    assert until(made.is_healthy, 20)
    return made


@pytest.fixture
def master(scheduler: Container) -> Iterator[None]:
    """This process as the master of the cluster, on the outside."""
    with fc.addprocs(f"tcp://localhost:{scheduler.port(8786)}"):
        assert until(lambda: len(fc.workers()) == 2, 20)
        yield


# The image


def test_no_layer_has_a_secret(podman):
    """No key, no token and nothing of the machine that built it is in any layer of the image, or in its history."""
    image = json.loads(podman("image", "inspect", IMAGE))[0]
    layers = [Path(each) for each in ":".join(image["GraphDriver"]["Data"].values()).split(":") if "diff" in each]
    assert len(layers) == len(image["RootFS"]["Layers"])
    places = ["etc/farcall", "etc/ssh", "home", "root", "run", "tmp"]
    found = [path for layer in layers for place in places for path in layer.glob(f"{place}/**/*")]
    assert [path for path in found if re.search(r"_key|authorized|\.pem|\.crt|\.key|token|cookie", path.name)] == []
    assert all(path.stat().st_size == 0 for layer in layers for path in layer.glob("etc/pip.conf"))
    told = podman("image", "inspect", IMAGE) + podman("history", "--no-trunc", IMAGE)
    assert re.search(r"PRIVATE KEY|ssh-(ed25519|rsa)|pip\.conf|index-url|(?i:password|token=)", told) is None


def test_the_image_needs_no_rights(podman):
    """It runs as an ordinary user, under an init that passes signals on, and says how its health is asked."""
    image = json.loads(podman("image", "inspect", IMAGE))[0]
    assert image["User"] == "1000:1000"
    assert image["Config"]["Entrypoint"] == ["tini", "--", "role"]
    assert image["Healthcheck"]["Test"] == ["CMD", "role", "health"]
    assert image["Labels"]["org.opencontainers.image.title"] == "farcall"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (["python3", "-c", "import farcall, os; print(farcall.myid(), os.getuid())"], "1 1000\n"),
        (["dask-worker", "--version"], "dask, version "),
    ],
)
def test_what_is_no_role_is_a_command(podman, command, output):
    """A command runs as it is, and so do the names that dask-kubernetes has for Dask's programs."""
    assert podman.command(*command).stdout.startswith(output)


# A cluster


@njit
def count_inside(seed, n):
    np.random.seed(seed)
    inside = 0
    for _ in range(n):
        inside += np.random.random() ** 2 + np.random.random() ** 2 < 1
    return inside


def test_a_master_outside(master):
    """It reaches the workers, knowing the scheduler's published port alone, and its machine code runs there."""
    hosts = {fc.remotecall_fetch(pid, socket.gethostname) for pid in fc.workers()}
    assert len(hosts) == 2
    assert socket.gethostname() not in hosts
    inside = sum(fc.pmap(count_inside, range(8), [10**6] * 8))
    assert abs(4 * inside / 8e6 - math.pi) < 0.003


INSIDE = """
import random
import farcall as fc

def count_inside(seed):
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(10**5))

with fc.addprocs("tcp://scheduler:8786") as pids:
    print(len(pids), 4 * sum(fc.pmap(count_inside, range(10))) / 1e6)
"""


def test_a_master_inside(podman, scheduler):
    """A container of the same network is a master like any other."""
    workers, pi = podman.command("python3", "-", text=INSIDE).stdout.split()
    assert workers == "2"
    assert abs(float(pi) - math.pi) < 0.01


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["kill"], 137),
        (["stop", "--time=30"], 0),  # it has ended by itself
    ],
)
def test_a_worker_that_ends_loses_nothing(podman, master, command, status):
    """What it had in hand when its container was killed is done by others; when that is told to stop, it does it."""
    begun = fc.RemoteChannel(math.inf)

    def square(n):
        begun.put(n)
        time.sleep(0.3)
        return n * n, socket.gethostname()

    worker = podman.start("worker", "--nthreads", 1)
    assert until(lambda: len(fc.workers()) == 3, 20)
    results = fc.imap(square, range(24), batch_size=1)
    found = [next(results) for _ in range(6)]
    assert worker.inspect()["Config"]["Hostname"] in [host for _, host in found]
    ending = podman.popen(*command, worker.name)
    found += results
    assert [value for value, _ in found] == [n * n for n in range(24)]
    assert status != 0 or len(begun) == 24  # nothing was done twice
    assert ending.wait() == 0
    assert until(lambda: worker.inspect()["State"]["Status"] == "exited")
    assert worker.inspect()["State"]["ExitCode"] == status
    assert until(lambda: len(fc.workers()) == 2)


def test_a_worker_that_is_stopped_closes_in_order(podman, scheduler):
    """What Dask holds there moves to the others first, and its masters learn that it was closed."""
    with Client(f"tcp://localhost:{scheduler.port(8786)}") as client, fc.addprocs(client):
        worker = podman.start("worker", "--nthreads", 1, "--name", "leaving")
        assert until(lambda: len(fc.workers()) == 3, 20)
        pid = max(fc.workers())
        held = client.scatter(["held"], workers=["leaving"])
        podman("stop", "--time=30", worker.name)
        assert client.gather(held) == ["held"]
        with pytest.raises(fc.ProcessExited, match="its Dask worker was closed"):
            fc.remotecall_fetch(pid, fc.myid)


# SSH


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Two pairs of keys."""
    paths = [tmp_path / name for name in ("first", "second")]
    for path in paths:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return paths


def test_a_host_of_ssh(podman, keys, tmp_path):
    """Keys in a variable and in a mounted file let in, and nothing else does; its own key is made there, and shown."""
    given, mounted = (path.with_suffix(".pub") for path in keys)
    options = [
        f"--env=AUTHORIZED_KEYS={given.read_text()}",
        f"--volume={mounted}:/etc/farcall/ssh/authorized_keys:ro",
        "--publish=127.0.0.1::2222",
        HOME,
    ]
    host = podman.start("sshd", options=options)
    assert until(host.is_healthy, 20)
    known = tmp_path / "known_hosts"
    shown = re.search("The key of this host: (ssh-ed25519 .*)", host.output())
    assert shown
    known.write_text(f"[localhost]:{host.port(2222)} {shown[1]}\n")
    name = f"farcall@localhost:{host.port(2222)}"
    for key in keys:
        with fc.addprocs([(name, 2)], identity_file=key, known_hosts=known, tunnel=True) as (first, second):
            assert fc.remotecall_fetch(first, lambda: fc.remotecall_fetch(second, os.getuid)) == 1000
    options = ["-p", host.port(2222), "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-F", "none"]
    command = ["ssh", *options, "-o", "IdentityFile=none", "-o", "IdentityAgent=none", "farcall@localhost", "true"]
    refused = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    assert "Permission denied (publickey)." in refused.stderr


def test_a_host_of_ssh_that_nobody_could_enter(podman):
    """Without a key that may come in it does not start, and says what to give."""
    done = podman.command("sshd", options=[HOME])
    assert (done.returncode, done.stdout) == (1, "")
    assert "Nobody could log in: give public keys in AUTHORIZED_KEYS" in done.stderr


# Jupyter


def answer(address: str, path: str, token: str = "") -> int:
    """Return the status with which a JupyterLab answers."""
    headers = {"Authorization": f"token {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}{path}", headers=headers)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:  # it is not there yet
        return 0


def test_jupyter_has_a_token(podman):
    """It makes one and prints it, also if a variable says that it is empty, and without it nothing is answered."""
    jupyter = podman.start("jupyter", options=["--env=JUPYTER_TOKEN=", HOME])
    assert until(jupyter.is_healthy, 20)
    token = re.search(r"/lab\?token=(\w{48})", jupyter.output())
    assert token
    address = f"{jupyter.address}:8888"
    assert answer(address, "/api/contents") == 403
    assert answer(address, "/api/contents", "wrong") == 403
    assert answer(address, "/api/contents", token[1]) == 200
    started = time.monotonic()
    podman("stop", "--time=30", jupyter.name)
    assert time.monotonic() - started < 10


# All of them


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


SECURED = """
import farcall as fc
with fc.addprocs("tls://scheduler:8786") as pids:
    print(len(pids), fc.pmap(lambda n: n * n, range(4)))
"""


def test_compose(podman, tmp_path):
    """It brings up as many workers as asked for, and JupyterLab, which all speak TLS if there are certificates."""
    folder = ROOT / "deploy" / "docker"
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema=vendor.compose-spec", folder / "compose.yaml"],
        check=True,
    )
    (tmp_path / "tls").mkdir()
    for path, name in zip(Authority().write(tmp_path), ("ca.crt", "tls.crt", "tls.key"), strict=True):
        shutil.move(path, tmp_path / "tls" / name)
    shutil.copy(folder / "compose.yaml", tmp_path)
    scheduler, jupyter = free_ports(2)
    own = {"IMAGE": IMAGE, "JUPYTER_TOKEN": "chosen", "SCHEDULER_PORT": scheduler, "JUPYTER_PORT": jupyter}
    environment = podman.environment | {name: str(value) for name, value in own.items()}

    def compose(*words: str) -> str:
        command = [sys.executable, "-m", "podman_compose", "-p", podman.name, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout.strip()

    compose("up", "--detach", "--no-build", "--scale", "worker=3")
    try:
        master = ["exec", "-T", "jupyter", "role", "python3", "-c", SECURED]
        assert until(lambda: compose(*master) == "3 [0, 1, 4, 9]", 20), compose("logs")
        assert until(lambda: answer(f"127.0.0.1:{jupyter}", "/api/contents") == 403, 20)
        assert answer(f"127.0.0.1:{jupyter}", "/api/contents", "chosen") == 200
        assert ssl.get_server_certificate(("127.0.0.1", scheduler)) == (tmp_path / "tls" / "tls.crt").read_text()
    finally:
        compose("down", "--volumes")
    assert podman("ps", "--all", "--quiet", f"--filter=name={podman.name}_") == ""
