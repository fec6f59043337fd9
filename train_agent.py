"""Train an agent that controls the data a model trains on: environment x agent -> run. See --help."""

import sys

from dsenv.workbench import main

if __name__ == "__main__":
    sys.exit(main())
