"""Containers for tests: the image of `deploy/docker/`, built and run by Podman as root.

    with Podman(folder) as podman:
        podman.build()
        worker = podman.start("worker")
        worker.address, worker.output()

The image's base, which comes from a registry elsewhere, is made on the spot from Debian's packages. Both stay in
Podman's storage, so that the next run makes only what has changed. All else bears the name of its maker, the test, and
goes with it; what a test that was killed has left goes when the next one begins.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
IMAGE = "localhost/farcall-tests"
PREFIX = "farcall-tests-"
PROGRAMS = ["podman", "runc", "mmdebstrap"]

# What a machine of virtual machines may refuse, or lack: higher limits than its own, a new kind of groups, systemd.
SETTINGS = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

# Where the kernel cannot lay layers over each other, because the root file system is such layers itself.
STORAGE = """
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/farcall-tests"
runroot = "/run/containers/farcall-tests"
"""

# As slim as Python's official image, and with what that has.
BASE = [
    "--variant=minbase",
    "--include=python3,python3-pip,ca-certificates",
    *[f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")],
]
PIP = {"index-url", "extra-index-url", "trusted-host", "cert", "proxy", "default-timeout"}  # of ours, it needs


def missing() -> str:
    """Return what this machine lacks to run containers, in words; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(each for each in PROGRAMS if shutil.which(each) is None)


class Container:
    """A container that has been started. `Podman` makes it."""

    def __init__(self, podman: "Podman", name: str) -> None:
        self.name = name
        self._podman = podman

    @property
    def address(self) -> str:
        """Where this machine and other containers reach it."""
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(networks[self._podman.name]["IPAddress"])

    def inspect(self) -> Any:
        return json.loads(self._podman("container", "inspect", self.name))[0]

    def output(self) -> str:
        """Return what it has printed, on both outputs."""
        return self._podman("logs", self.name, stderr=subprocess.STDOUT)

    def is_healthy(self) -> bool:
        """Run the image's own check of health, and return what it finds."""
        return self._podman.run("healthcheck", "run", self.name).returncode == 0

    def port(self, inner: int) -> int:
        """Return the port of this machine that leads to one of the container."""
        return int(self._podman("port", self.name, str(inner)).rpartition(":")[2])


class Podman:
    """Podman with settings that suit the machine, and a network. Everything ends with the `with` block."""

    def __init__(self, folder: Path) -> None:
        me = psutil.Process()
        self.name = f"{PREFIX}{me.pid}-{int(me.create_time() * 100)}"
        self._folder = folder
        settings = folder / "containers.conf"
        settings.write_text(SETTINGS)
        self.environment = os.environ | {"CONTAINERS_CONF": str(settings)}
        if self.run("info").returncode:
            storage = folder / "storage.conf"
            storage.write_text(STORAGE)
            self.environment["CONTAINERS_STORAGE_CONF"] = str(storage)
        self._count = 0
        # What an orchestrator that is careful gives a container.
        self._careful = [
            f"--network={self.name}",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
        ]

    def __enter__(self) -> "Podman":
        self._remove(lambda name: not _is_alive(name))
        self("network", "create", self.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._remove(lambda name: self.name in name)

    def run(self, *words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of Podman, and return its end and output."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.run(["podman", *map(str, words)], env=self.environment, cwd=self._folder, **options)

    def __call__(self, *words: object, **options: Any) -> str:
        """Run a command of Podman, and return what it printed; RuntimeError if it fails."""
        done = self.run(*words, **options)
        if done.returncode:
            raise RuntimeError(f"podman {' '.join(map(str, words))}: {done.stderr or done.stdout}")
        return str(done.stdout).strip()

    def popen(self, *words: object) -> "subprocess.Popen[bytes]":
        """Start a command of Podman."""
        return subprocess.Popen(["podman", *map(str, words)], env=self.environment, stderr=subprocess.DEVNULL)

    def start(self, *arguments: object, options: Sequence[str] = ()) -> Container:
        """Start a container of the image with some arguments, of which the first is its role."""
        name = self._name_next()
        self("run", "--detach", f"--name={name}", *self._careful, *options, IMAGE, *arguments)
        return Container(self, name)

    def command(
        self, *arguments: object, options: Sequence[str] = (), text: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a container of the image to its end, with some input, and return that and its output."""
        own = ["--rm", "--interactive", f"--name={self._name_next()}", *self._careful, *options]
        return self.run("run", *own, IMAGE, *arguments, input=text)

    def _name_next(self) -> str:
        self._count += 1
        return f"{self.name}-{self._count}"

    # The image

    def build(self) -> None:
        """Build the image from this repository, and what it is based on if that is not there."""
        base = self.find_base()
        before = self("images", "--quiet", IMAGE)
        mounts = [f"--volume={source}:{target}:ro" for source, target in self._pip_settings().items()]
        recipe = ROOT / "deploy" / "docker" / "Dockerfile"
        options = ["--quiet", "--format=docker", "--pull=never", f"--tag={IMAGE}", f"--build-arg=BASE={base}"]
        self("build", *options, *mounts, f"--file={recipe}", ROOT)
        if before and before != self("images", "--quiet", IMAGE):
            self.run("rmi", before)

    def find_base(self) -> str:
        """Return the name of an image with this machine's Debian and its Python, made if it is not there."""
        release = Path("/etc/os-release").read_text()
        found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
        suite = found[1] if found else "stable"
        base = f"{IMAGE}-base:{suite}-{hashlib.sha256(repr(BASE).encode()).hexdigest()[:12]}"
        if self.run("image", "exists", base).returncode:
            tree = self._folder / "base.tar"
            subprocess.run(["mmdebstrap", "--quiet", *BASE, suite, tree], check=True, stdin=subprocess.DEVNULL)
            self("import", "--quiet", tree, base)
            tree.unlink()
        return base

    def _pip_settings(self) -> dict[str, str]:
        """Return the files that pip needs to reach what ours reaches, with where they are mounted."""
        shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
        settings = {}
        for line in reversed(shown.stdout.splitlines()):  # the environment, which counts most, comes first
            name, _, value = line.partition("=")
            words = [word for word in ast.literal_eval(value).split() if not word.startswith("file:")]
            if name.rpartition(".")[2] in PIP and words:
                settings[name.rpartition(".")[2]] = " ".join(words)
        file = self._folder / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        mounts = {str(file): "/etc/pip.conf"}
        if "cert" in settings:
            mounts[settings["cert"]] = settings["cert"]
        return mounts

    # What is left

    def _remove(self, is_ours: Callable[[str], bool]) -> None:
        """Remove what tests have made, of those whose name says so."""
        for kind, remove in [
            ("pod", ["pod", "rm", "--force", "--time=0"]),
            ("container", ["rm", "--force", "--volumes", "--time=0"]),
            ("network", ["network", "rm", "--force"]),
            ("volume", ["volume", "rm", "--force"]),
        ]:
            name = {"container": "{{.Names}}"}.get(kind, "{{.Name}}")
            every = ["--all"] if kind == "container" else []
            listed = self(kind, "ls", *every, "--format", name).splitlines()
            if ours := [each for each in listed if PREFIX in each and is_ours(each)]:
                self.run(*remove, *ours)


def _is_alive(name: str) -> bool:
    """Return whether the test that made what has this name still runs."""
    found = re.search(rf"{PREFIX}(\d+)-(\d+)", name)
    try:
        return found is not None and int(psutil.Process(int(found[1])).create_time() * 100) == int(found[2])
    except psutil.NoSuchProcess:
        return False
