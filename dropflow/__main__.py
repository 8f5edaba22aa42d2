"""`python -m dropflow`."""

from dropflow.cli import main

main()
