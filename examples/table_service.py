"""Workers take messages from a channel and push each result to a table service.

    python examples/table_service.py [workers] [--messages N] [--service sqlite|azure] [--kill]

This is the second experiment of "Julia Distributed Computing in the Cloud" (D. Gannon, 2018): ten workers, one queue,
a table. A message is a seed, and its result the heads in a thousand flips of a coin with that seed. In the end the
table is read back: every message must be stored exactly once, also when workers are killed on the way (--kill).

The table is a file of SQLite; or, with --service azure, one in Azure Tables: of the emulator Azurite, which is started
for the purpose, or of the service that a connection string names (--connection).
"""

import argparse
import base64
import contextlib
import functools
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter

import farcall as fc


def count_heads(seed):
    coin = random.Random(seed)
    return sum(coin.random() < 0.5 for _ in range(1000))


# Two tables with the same four methods. Every process opens the table for itself, and a row is known by its seed:
# storing a result again replaces its row.


class SQLiteTable:
    """A table in a file, with no server."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, timeout=60, isolation_level=None)  # every statement is a transaction

    def create(self):
        self.database.execute("PRAGMA journal_mode = WAL")  # a property of the file: readers and a writer, side by side
        self.database.execute("CREATE TABLE results (seed INTEGER PRIMARY KEY, heads INTEGER, deliveries INTEGER)")

    def upsert(self, seed, heads, deliveries):
        self.database.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (seed, heads, deliveries))

    def rows(self):
        return self.database.execute("SELECT seed, heads, deliveries FROM results").fetchall()

    def close(self):
        self.database.close()


class AzureTable:
    """A table of Azure Tables, or of its emulator."""

    def __init__(self, connection, name):
        from azure.data.tables import TableClient

        self.client = TableClient.from_connection_string(connection, name)

    def create(self):
        self.client.create_table()

    def upsert(self, seed, heads, deliveries):
        key = {"PartitionKey": "coin", "RowKey": str(seed)}
        self.client.upsert_entity({**key, "heads": heads, "deliveries": deliveries}, mode="replace")

    def rows(self):
        return [(int(row["RowKey"]), row["heads"], row["deliveries"]) for row in self.client.list_entities()]

    def close(self):
        self.client.close()


@contextlib.contextmanager
def sqlite_service():
    """Yield the function that opens the table; its file goes in the end."""
    with tempfile.TemporaryDirectory() as directory:
        yield functools.partial(SQLiteTable, f"{directory}/results.db")


@contextlib.contextmanager
def azure_service(connection):
    """Yield the function that opens the table; it stays, unless it is that of an emulator."""
    try:
        import azure.data.tables  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error}: this service needs a package; install it with: pip install 'farcall[azure]'")
    name = f"results{secrets.token_hex(4)}"
    with contextlib.nullcontext(connection) if connection else azurite() as connection:
        print(f"The table is {name}.", flush=True)
        yield functools.partial(AzureTable, connection, name)


@contextlib.contextmanager
def azurite():
    """Run the emulator of Azure Tables on a free port of this machine, and yield its connection string."""
    program = shutil.which("azurite-table")
    if program is None:
        sys.exit("there is no azurite-table in the PATH; install it with: npm install --global azurite")
    key = base64.b64encode(secrets.token_bytes(32)).decode()  # nobody else on this machine has it
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--tableHost", "127.0.0.1", "--tablePort", str(port)]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--silent"]
    environment = os.environ | {"AZURITE_ACCOUNTS": f"farcall:{key}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            said = emulator.stdout.readline() + emulator.stdout.readline()  # that it is starting, and that it has
            if "successfully" not in said:
                sys.exit(f"Azurite did not start: {said}")
            endpoint = f"http://127.0.0.1:{port}/farcall"
            yield f"AccountName=farcall;AccountKey={key};TableEndpoint={endpoint};DefaultEndpointsProtocol=http"
        finally:
            emulator.terminate()


def work(messages, open_table, ready):
    """Store the result of each message; runs on every worker.

    The next message is asked for when the result of this one is stored, and only then is this one done. If the worker
    dies before, another gets it; if that was after storing and before asking, the row is replaced by its equal.
    """
    with contextlib.closing(open_table()) as table:
        ready.put(os.getpid())
        lease = messages.lease()
        for seed in lease:
            table.upsert(seed, count_heads(seed), lease.deliveries)


def run(pids, open_table, count, killed):
    """Send the messages 0, 1, …, count - 1 through the workers and return the seconds until all are stored.

    The channel holds few of them: putting waits until the workers have caught up. Half-way some workers are killed.
    """
    messages = fc.RemoteChannel(2 * len(pids), type=int)
    ready = fc.RemoteChannel(len(pids), type=int)
    futures = [fc.spawnat(pid, work, messages, open_table, ready) for pid in pids]
    processes = [ready.take(timeout=60) for _ in pids]
    started = time.perf_counter()
    for seed in range(count):
        if seed == count // 2:
            for each in processes[:killed]:
                os.kill(each, signal.SIGKILL)
        messages.put(seed, timeout=60)
    messages.close()
    for future in futures:
        with contextlib.suppress(fc.ProcessExited):  # the others have its messages; the table will tell
            fc.fetch(future)
    return time.perf_counter() - started


def find_fault(rows, count):
    """Return what is wrong with the table, or nothing if every result is in it exactly once."""
    wanted = Counter((seed, count_heads(seed)) for seed in range(count))
    stored = Counter((seed, heads) for seed, heads, _ in rows)
    if stored == wanted:
        return ""
    return f"missing: {(wanted - stored).total():,}, too many: {(stored - wanted).total():,}"


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workers", type=int, nargs="?", default=10)
    parser.add_argument("--messages", type=int, default=2000, metavar="N")
    parser.add_argument("--service", choices=["sqlite", "azure"], default="sqlite")
    parser.add_argument("--connection", metavar="STRING", help="of an Azure storage account; without: Azurite, started")
    parser.add_argument("--kill", action="store_true", help="kill a third of the workers half-way")
    options = parser.parse_args()
    if options.workers < 1 + options.kill:
        parser.error(f"{options.workers} workers are too few")
    return options


def main():
    options = parse_options()
    service = azure_service(options.connection) if options.service == "azure" else sqlite_service()
    killed = max(1, options.workers // 3) if options.kill else 0
    with service as open_table, contextlib.closing(open_table()) as table:
        table.create()
        with fc.addprocs(options.workers) as pids:
            print(f"{len(pids)} workers store {options.messages:,} results in {options.service}.", flush=True)
            seconds = run(pids, open_table, options.messages, killed)
        print(f"{options.messages:,} messages in {seconds:.3f} s: {options.messages / seconds:,.0f} messages/s")
        rows = table.rows()
    again = sum(deliveries > 1 for _, _, deliveries in rows)
    print(f"Workers killed: {killed}; messages delivered again: {again}")
    fault = find_fault(rows, options.messages)
    if fault:
        sys.exit(f"Read back: {len(rows):,} rows; {fault}")
    print(f"Read back: {len(rows):,} rows: every message is stored exactly once.")


if __name__ == "__main__":
    main()
