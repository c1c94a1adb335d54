"""python scripts/pack_dataset.py data=cifar10 output=FOLDER: the same as `vitfw pack`."""

import sys

if __name__ == "__main__":
    try:
        from vitfw.cli.pack import main
    except ModuleNotFoundError as missing:
        sys.exit(
            f"{missing.name} is not installed for {sys.executable}; "
            "run `make setup`, then `.venv/bin/python scripts/pack_dataset.py`"
        )
    sys.exit(main(sys.argv[1:]))
