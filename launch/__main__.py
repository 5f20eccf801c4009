"""`python -m realness.launch` is the command `realness`."""

import sys

from realness.launch.cli import main

sys.exit(main())
