"""`python -m vitfw COMMAND`."""

from vitfw.cli.main import script

if __name__ == "__main__":
    script()
