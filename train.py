"""python train.py model=vit_b16 data=cifar10: the same as `vitfw train`."""

import sys

if __name__ == "__main__":
    try:
        from vitfw.cli.train import main
    except ModuleNotFoundError as missing:
        sys.exit(
            f"{missing.name} is not installed for {sys.executable}; "
            "run `make setup`, then `.venv/bin/python train.py`"
        )
    sys.exit(main(sys.argv[1:]))
