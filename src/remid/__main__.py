"""`python -m remid`: the command line, for launchers that start modules (accelerate launch -m remid ...)."""

from remid.cli import main

main()
