"""`python -m refseg.cli` is the command `refseg`."""

from refseg.cli.main import main

if __name__ == "__main__":
    main()
