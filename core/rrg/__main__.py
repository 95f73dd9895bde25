"""`python -m rrg`: the command `rrg`, where its script is not on the path, as under `torchrun -m rrg`."""

import sys

from rrg.cli import main

sys.exit(main())
