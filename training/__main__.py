"""`python -m training RECIPE` is `lowerbound train RECIPE`, as `torchrun` and `accelerate launch` need it."""

import sys

from service.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
