"""`python -m refseg` is the command `refseg`; torchrun needs this form."""

from refseg.cli.main import main

if __name__ == "__main__":
    main()
