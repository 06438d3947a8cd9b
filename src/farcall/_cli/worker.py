"""farcall worker: one worker process, started by hand."""

import sys

from .._node.worker import main


def serve(ready: int, parent: int) -> int:
    """Be a worker until the master says goodbye; see ``_node.worker``, which reads the command line itself."""
    sys.argv[:] = ["farcall worker", str(ready), str(parent)]
    main()
    return 0
