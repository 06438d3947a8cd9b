"""The command ``farcall``: run, deploy, doctor, worker. Each is a module here, imported when it is asked for."""

import argparse
import sys
from collections.abc import Sequence

from .._version import __version__

_RUN_USAGE = """farcall run [-p N|auto] [--machine-file FILE [--tunnel]] [--threads T] script.py [argument ...]
       farcall run [the same options] -m module [argument ...]
       farcall run [the same options] -c code [argument ...]"""

_RUN = """Run a Python program in the master process, with workers already up.

The program is __main__, as under python itself: sys.argv, sys.path[0] and __file__ are the same, and so is
the exit status. Everything after the script, the module or the code belongs to the program. Without -p and
--machine-file no workers are added: the program calls addprocs itself. The workers end with the program; Ctrl-C
ends all, with status 130.

A line of a machine file is [count*][user@]host[:port], where the count is a number or "auto", one for each core.
Hosts are reached by ssh, with its configuration; see docs/ssh.md.

Under mpiexec the program runs in the first rank, and the others are its workers, instead of -p:
mpiexec -n 5 farcall run script.py"""

_DOCTOR = """Print what is installed and which limits of the system matter, start one worker, and measure it.

The exit status is 0 if all is well. If not it is 1, and the last lines say what to do."""

_WORKER = """Be a worker: listen, write the address to the descriptor READY, and serve the master that connects.

This is what the engine for local processes starts by hand; addprocs(n) does it for you. One line of JSON is read
from the standard input, the offer: {"token": 64 hexadecimal digits that the master knows too, "timeout": seconds
to wait for the master, "path": what becomes sys.path, "main": the file of the running program, or null}. It
listens where only this machine reaches it, and at the addresses of a list "listen", if there is one, such as
"tcp:10.0.0.5:0". The worker ends with its master, with the process PARENT, or when no master has connected in
time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (that of this process by default) and return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    program: list[str] = []
    if given[:1] == ["run"]:
        given, program = _split(given)
    parser, run_parser = _parsers(deploys=given[:1] == ["deploy"])
    options = parser.parse_args(given)
    if options.command == "doctor":
        from .doctor import examine

        return examine()
    if options.command == "deploy":
        from . import deploy

        return deploy.run(options)
    if options.command == "worker":
        from .worker import serve

        return serve(options.ready, options.parent)
    if not program:
        run_parser.error("which program? Give a script, -m module or -c code")
    from ..engines import MPI
    from .run import Crew, parse_program, run

    crew = Crew(options.workers, options.machine_file, options.tunnel, options.threads or 1)
    if options.threads is not None and crew == Crew(threads=crew.threads) and MPI.count_ranks() == 1:
        run_parser.error("--threads is about the workers that are added: give -p or --machine-file, too")
    if options.tunnel and options.machine_file is None:
        run_parser.error("--tunnel is about the hosts of a machine file: give --machine-file, too")
    try:
        found = parse_program(program)
    except ValueError as error:
        run_parser.error(str(error))
    return run(found, crew)


def _split(given: list[str]) -> tuple[list[str], list[str]]:
    """Return what is ours of a ``run`` command and what begins with the program.

    argparse cannot do it: it would look for our options among the program's.
    """
    at = 1
    while at < len(given) and given[at].startswith("-") and not given[at].startswith(("-m", "-c")):
        if given[at] == "--":
            return given[:at], given[at + 1 :]
        at += 2 if given[at] in ("-p", "--threads", "--machine-file") else 1
    return given[:at], given[at:]


def _parsers(*, deploys: bool) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Return the parser of everything, and the part of it that is for ``run``."""
    parser = argparse.ArgumentParser(prog="farcall", description="Calls between Python processes.")
    parser.add_argument("--version", action="version", version=f"farcall {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    run = commands.add_parser(
        "run", help="run a program with workers", usage=_RUN_USAGE, description=_RUN, formatter_class=raw
    )
    run.add_argument(
        "-p", dest="workers", type=_worker_count, metavar="N|auto", help="add N local workers; auto: one per core"
    )
    run.add_argument("--machine-file", metavar="FILE", help="add workers on the hosts that a file lists")
    run.add_argument("--tunnel", action="store_true", help="all goes through SSH, no other port is used")
    run.add_argument(
        "--threads", type=_positive, metavar="T", help="threads that NumPy, Numba and their like use in each worker (1)"
    )
    deploying = commands.add_parser("deploy", help="workers on a Kubernetes cluster", formatter_class=raw)
    if deploys:
        from .deploy import complete

        complete(deploying)
    commands.add_parser("doctor", help="check this machine", description=_DOCTOR, formatter_class=raw)
    worker = commands.add_parser("worker", help="be a worker", description=_WORKER, formatter_class=raw)
    worker.add_argument("ready", type=int, metavar="READY", help="open descriptor for the address, closed after it")
    worker.add_argument("parent", type=int, metavar="PARENT", help="process id of the process that starts this one")
    return parser, run


def _worker_count(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number
