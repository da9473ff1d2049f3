#!/usr/bin/python3 -IS
"""Ask the CRM where a call goes: as an AGI script, or with --listen as a FastAGI server.

This file only finds its modules; what it does is in crm_routing/. It is started once a call, so
nothing is imported that the way it is started does not need; -IS leaves out the site module.
"""

import sys

_here = __file__.rpartition("/")[0] or "."
sys.path[:0] = [_here]
sys.path.append(_here + "/lib")

from crm_routing.main import main  # noqa: E402 - after the path is set

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
