"""``forwarder completion``: a script for the shell, so that Tab completes the forwarder's command lines."""

from __future__ import annotations

import click

from forwarder.cli.command import Context, command

SHELLS = ("bash", "zsh", "fish")


@command("completion", short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(_context: Context, shell: str) -> None:
    """Print a shell completion script for the forwarder's commands, options and values.

    It also completes ids, event names and reasons of the latest dead letters, settings and faults, quoted for
    the shell.

    \b
      source <(forwarder completion bash)          in ~/.bashrc
      source <(forwarder completion zsh)           in ~/.zshrc, below compinit
      forwarder completion fish | source           in ~/.config/fish/config.fish
    """
    from forwarder.cli.completion.shells import script

    click.echo(script(shell), nl=False)
