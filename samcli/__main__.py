"""`python -m samcli`."""

import sys

from samcli.cli import main

sys.exit(main())
