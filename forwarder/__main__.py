"""``python -m forwarder``: the same as the command ``forwarder``."""

from forwarder.cli import main

if __name__ == "__main__":
    main()
