"""All commands. One module per noun, each loaded only when it is used."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

import forwarder
from forwarder.cli.command import Context, Group, config_option
from forwarder.cli.output import OutputError, discard_rest, guarded
from forwarder.errors import ForwarderError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Set by a shell that asks for completions, as click defines it.
COMPLETE = "_FORWARDER_COMPLETE"
# 128 and the number of SIGPIPE, as a shell shows it for other programs.
NOBODY_READS = 141

# name: (module, attribute, line of the overview)
COMMANDS = {
    "enqueue": ("enqueue", "enqueue", "Put events into the queue."),
    "run": ("run", "run", "Deliver waiting events until stopped: the daemon."),
    "intake": ("intake", "intake", "Take events from Mixpanel's SDKs over HTTP."),
    "relay": ("relay", "relay", "Hand this host's events over to a server."),
    "drain": ("drain", "drain", "Deliver waiting events, then exit."),
    "setup": ("setup", "setup", "Make what a queue needs on its server."),
    "status": ("status", "status", "How the queue and the daemon are."),
    "top": ("top", "top", "Watch events flow, live."),
    "peek": ("peek", "peek", "Show the next events, without touching them."),
    "where": ("where", "where", "What became of events, by their ids."),
    "waiting": ("waiting", "waiting", "List, hold, release or delete waiting events."),
    "dead-letters": ("dead_letters", "dead_letters", "Look at refused events, retry or delete them."),
    "pause": ("control", "pause", "Stop delivery; new events are still accepted."),
    "resume": ("control", "resume", "Start delivery again after a pause."),
    "flush": ("control", "flush", "Forget the current wait and try now."),
    "check": ("check", "check", "Check settings, permissions, disk, database and books."),
    "report": ("report", "report", "Write all about this installation into a file, without secrets."),
    "salvage": ("salvage", "salvage", "Recover events from a damaged database."),
    "config": ("config", "config", "Show the effective settings."),
    "completion": ("completion", "completion", "Print a shell completion script."),
    "bench": ("bench", "bench", "Measure how fast this disk and machine are."),
    "sandbox": ("sandbox", "sandbox", "Run a stand-in for Mixpanel."),
    "demo": ("demo", "demo", "Show the way of events from end to end on this machine."),
}


class LazyGroup(Group):
    """Imports a command's module only when that command is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"forwarder.cli.{module}"), attribute)
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click.Group would import all commands to get their help lines.
        from click.shell_completion import CompletionItem

        found = [(name, line) for name, (_, _, line) in COMMANDS.items() if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=line) for name, line in found]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--version"] if args == ["version"] else args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group("forwarder", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(forwarder.__version__, "-V", "--version", prog_name="forwarder")
@config_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keep events for Mixpanel in a durable queue on disk, and deliver them."""
    ctx.ensure_object(Context)


def main(arguments: list[str]) -> NoReturn:
    """Run a command line and exit with its code (``sysexits.h``; see :mod:`forwarder.errors`)."""
    end(lambda: _run(arguments))


def end(run: Callable[[], int]) -> NoReturn:
    """Exit with the code that *run* returns, or with that of the error that it raises, which is printed."""
    with guarded():
        try:
            code = _code(run)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            # The reader of our output is gone (`| head`): end without a message.
            discard_rest()
            code = NOBODY_READS
        except OutputError as error:
            discard_rest()
            _tell(error)
            code = error.exit_code
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if COMPLETE in os.environ:
        import_module("forwarder.cli.completion.shells")
    code = cli.main(arguments, prog_name="forwarder", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _code(run: Callable[[], int]) -> int:
    try:
        code = run()
    except click.UsageError as error:
        error.show()
        code = 64
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = 130
    except (BrokenPipeError, OutputError):
        raise
    except ForwarderError as error:
        _tell(error)
        code = error.exit_code
    except Exception:
        # A bug: print everything for the report.
        traceback.print_exc()
        click.echo("forwarder: this is a bug; please report it with the lines above.", err=True)
        code = 70
    return code


def _tell(error: ForwarderError) -> None:
    # Loaded by those who have something to say: a producer has to start fast.
    from forwarder.cli.table import say

    say(f"forwarder: {error}", err=True)
