"""Starts a supervisor: ``python -I -S .../program/__main__.py PARENT_PID REQUEST_FD ORDERS_FD ANSWER_FD``.

By its path, in a bare interpreter, as the builder is: this very installation must be what it imports.
"""

import os
import sys

if __name__ == "__main__":
    # The last place: what else stands beside an installed package stands in for none of the library's modules.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))
    from envmgr.runners.program.supervisor import main

    main(sys.argv[1:])
