"""Draw what each worker did in a heavy-tailed map: ``python docs/timeline.py`` writes ``docs/maps-timeline.png``."""

import json
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm

import farcall as fc

WORKERS = 4
ITEMS = 1000
LONGEST = 0.5  # seconds
SEED = 4


def nap(seconds):
    """Take a while."""
    time.sleep(seconds)


def record(times):
    """Return the batches of a map as dicts: worker, first and last item, beginning and end in seconds."""
    with tempfile.TemporaryDirectory() as directory, fc.addprocs(WORKERS):
        fc.pmap(abs, range(100))
        path = Path(directory) / "trace.json"
        with fc.trace(path):
            fc.pmap(nap, times)
        events = [each for each in json.loads(path.read_text())["traceEvents"] if each.get("cat") == "map"]
    begin = min(each["ts"] for each in events)
    spans = [((each["ts"] - begin) / 1e6, (each["ts"] + each["dur"] - begin) / 1e6) for each in events]
    return [
        each["args"] | {"worker": each["pid"], "from": start, "to": end}
        for each, (start, end) in zip(events, spans, strict=True)
    ]


def draw(batches, times, target):
    """Draw a row for each worker; a batch is a bar, an item a part of it, coloured by how long it took."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 4.2), dpi=150, height_ratios=[3, 1], sharex=True, layout="constrained"
    )
    pids = sorted({each["worker"] for each in batches})
    boxes, colours = [], []
    for each in batches:
        row, at = pids.index(each["worker"]), each["from"]
        parts = np.asarray(times[each["start"] : each["stop"]])
        for part in parts * (each["to"] - at) / parts.sum():
            boxes.append([(at, row - 0.4), (at + part, row - 0.4), (at + part, row + 0.4), (at, row + 0.4)])
            colours.append(part)
            at += part
    bars = PolyCollection(boxes, array=colours, cmap="viridis_r", norm=LogNorm(1e-3, LONGEST), linewidths=0)
    above.add_collection(bars)
    above.set_yticks(range(len(pids)), [f"worker {pid}" for pid in pids])
    above.set_ylim(len(pids) - 0.5, -0.5)
    best, end = max(max(times), sum(times) / len(pids)), max(each["to"] for each in batches)
    for axis in (above, below):
        axis.axvline(best, color="tab:red", linewidth=1, linestyle="--")
    above.set_title(
        f"{len(times)} items of 1 ms to {LONGEST:g} s on {len(pids)} workers: {end:.2f} s; "
        f"the best schedule, dashed, takes {best:.2f} s",
        fontsize=10,
    )
    figure.colorbar(bars, ax=above, label="an item, seconds", pad=0.01)
    sizes = [each["stop"] - each["start"] for each in batches]
    below.scatter([each["from"] for each in batches], sizes, s=6, color="0.3")
    below.set_yscale("log")
    below.set_ylabel("items in\na batch")
    below.set_xlabel("seconds")
    below.set_xlim(0, end * 1.01)
    figure.savefig(target)


if __name__ == "__main__":
    lengths = np.minimum(LONGEST, 1e-3 * (1 + np.random.default_rng(SEED).pareto(0.9, ITEMS))).tolist()
    draw(record(lengths), lengths, sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("maps-timeline.png"))
