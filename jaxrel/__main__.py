"""``python -m jaxrel``: the command line."""

from jaxrel.cli import run

if __name__ == "__main__":
    run()
