"""A Dask cluster for tests: its scheduler, nannies and workers are processes of their own."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import distributed
import psutil
from waiting import until

import farcall as fc

PROGRAM = Path(fc.__file__).parents[1]
TESTS = Path(__file__).parent


class DaskCluster:
    """A scheduler and workers under nannies, started as a user starts them on hosts of his own.

    With `certificate`, paths of a CA, a certificate and its key, all of them speak TLS.
    """

    def __init__(self, folder, workers, certificate=None, **config):
        names = ("ca-file", "cert", "key")
        tls = [f"--tls-{name}={path}" for name, path in zip(names, certificate or (), strict=False)]
        self._options = ["--protocol", "tls", *tls] if tls else []
        self.security = None
        if certificate:
            ca, own, key = certificate
            self.security = distributed.Security(
                tls_ca_file=ca, tls_client_cert=own, tls_client_key=key, require_encryption=True
            )
        self._file = folder / "scheduler.json"
        self._environment = os.environ | {"PYTHONPATH": f"{PROGRAM}:{TESTS}", "NOT_OF_THIS_TEST": "1"}
        self._environment |= {f"DASK_DISTRIBUTED__{name}": value for name, value in config.items()}
        self.processes = []
        self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        assert until(lambda: self._file.exists() and self._file.read_text().endswith("}"), 20)
        self.add(workers)
        self.address = json.loads(self._file.read_text())["address"]
        self.client = distributed.Client(self.address, security=self.security, set_as_default=False)
        if workers:
            self.client.wait_for_workers(workers, timeout=30)

    def _start(self, what, *options):
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self._file), *self._options, *options]
        log = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(command, env=self._environment, stdout=log, stderr=log))

    def add(self, count):
        """Start workers."""
        if count:
            self._start("worker", "--nworkers", str(count), "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")

    def close(self):
        self.client.close()
        family = [psutil.Process(each.pid) for each in self.processes if each.poll() is None]
        family += [child for each in family for child in each.children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        for each in self.processes:
            each.wait()

    def address_of(self, pid):
        """Return Dask's own name of the worker that one of our processes is in."""
        process = fc.remotecall_fetch(pid, os.getpid)
        return next(address for address, each in self.client.run(os.getpid).items() if each == process)

    def plugins(self):
        """Return what of ours there is in any worker: plugins and threads."""

        def ours(dask_worker):
            threads = [each.name for each in threading.enumerate() if each.name.startswith("farcall")]
            return [each for each in dask_worker.plugins if each.startswith("farcall")] + threads

        return [each for found in self.client.run(ours).values() for each in found]

    def stacks(self):
        """Return what our threads in the workers do, for a failure."""

        def ours():
            frames = sys._current_frames()
            mine = [each for each in threading.enumerate() if each.name.startswith("farcall")]
            return {each.name: traceback.format_stack(frames[each.ident])[-3:] for each in mine if each.ident in frames}

        return self.plugins(), self.client.run(ours)
