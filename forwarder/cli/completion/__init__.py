"""``forwarder completion``: what a shell is to load so that Tab completes the forwarder's command lines."""

from __future__ import annotations

import click

from forwarder.cli.command import Context, command

SHELLS = ("bash", "zsh", "fish")


@command("completion", short_help="Print what makes a shell complete command lines.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(_context: Context, shell: str) -> None:
    """Print the script that makes a shell complete the forwarder's commands, options and values.

    Values are those there are: ids, names and reasons of the latest dead letters, settings, faults. What is
    put in is quoted where a shell would take it for something else.

    \b
      source <(forwarder completion bash)          in ~/.bashrc
      source <(forwarder completion zsh)           in ~/.zshrc, below compinit
      forwarder completion fish | source           in ~/.config/fish/config.fish
    """
    from forwarder.cli.completion.shells import script

    click.echo(script(shell), nl=False)
