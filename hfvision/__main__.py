"""`python -m hfvision COMMAND`: the console script, for launchers that start modules, such as torchrun."""

from hfvision.cli import main

main()
