"""`python -m dualselect` is the command `dualselect`; launchers such as `accelerate launch --module` need this form."""

import sys

from dualselect.cli import main

sys.exit(main())
