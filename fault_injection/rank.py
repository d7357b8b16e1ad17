"""python -m fault_injection.rank NOTE PHASE CALL MOMENT KILLED ARGUMENT ...: one process of `ceeh.fit`.

That of the rank KILLED ends by SIGKILL in the phase; see `Killer`.
"""

import sys
from pathlib import Path

from ceeh.fit import main
from ceeh.runtime.distributed import rank
from fault_injection.killing import Killer

if __name__ == "__main__":
    note, phase, call, moment, killed, *arguments = sys.argv[1:]
    if rank() == int(killed):
        Killer(int(call), float(moment), Path(note)).arm(phase)
    sys.argv = ["python -m ceeh.fit", *arguments]
    sys.exit(main())
