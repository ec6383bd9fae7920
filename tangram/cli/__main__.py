"""`python -m tangram.cli`: the same as the command `tangram`."""

from . import main

main()
