"""Maps over the workers: pmap, imap, pmapreduce, pforeach. See ``schedule`` for who gets what, ``run`` for the rest."""

from .maps import imap as imap
from .maps import pforeach as pforeach
from .maps import pmap as pmap
from .maps import pmapreduce as pmapreduce
