"""`python -m batchupload`: the same as the `batchupload` command."""

from batchupload.cli import main

main()
