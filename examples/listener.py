"""Workers listen to a channel until a message says stop.

    farcall run -p 2 examples/listener.py

This is the listener of "Julia Distributed Computing in the Cloud" (D. Gannon, 2018). The channel lives here, in the
master; it holds up to ten strings, and each message goes to one listener: whoever has waited longest.
"""

import time

import farcall as fc

messages = fc.RemoteChannel(10, type=str)


def listen():
    """Take messages until "-1", and return how many there were."""
    heard = 0
    while (message := messages.take()) != "-1":
        heard += 1
        print(f"I am process {fc.myid()} and heard {message!r}")
        time.sleep(0.1)  # as if there were something to do about it
    print(f"I am process {fc.myid()} and stop")
    return heard


listeners = [fc.spawnat(pid, listen) for pid in fc.workers()]
for place in ["Bloomington", "Boston", "Berkeley", "Boulder", "Baltimore", "Brisbane"]:
    messages.put(f"hello from {place}")
for _ in listeners:
    messages.put("-1")  # one for each: who has taken it takes no more

print(f"Heard by all: {sum(fc.fetch(each) for each in listeners)} messages")
