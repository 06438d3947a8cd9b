"""One process of the cluster: its links, its references, the calls that run in it."""
