"""``forwarder bench``: how fast this disk and this machine are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from forwarder.cli.command import Context, command, json_option, print_json
from forwarder.errors import UsageError

if TYPE_CHECKING:
    from forwarder.cli.bench.measures import Delivery, Intake, Spread


@command("bench", short_help="Measure how fast this disk and machine are.")
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Measure the disk under DIR [default: the queue's].",
)
@click.option(
    "--seconds",
    "each_s",
    type=click.FloatRange(min=0.01, max=60),
    default=3.0,
    show_default=True,
    metavar="S",
    help="The duration of each of five measurements; that of delivery varies.",
)
@json_option
def bench(context: Context, directory: str | None, each_s: float, as_json: bool) -> None:
    """Measure how fast this disk and machine are, in half a minute.

    That is: how long a sync takes, how many events can be stored durably, one at a time and in batches, and
    how fast the daemon delivers them to a stand-in for Mixpanel.

    It needs no account. It works in its own directory, which is removed at the end. The queue and its daemon
    are not touched, but share the disk and the machine meanwhile.

    With --json: sync, intake and delivery, times in seconds, and meaning, the sentences.
    """
    # Here, not above: `forwarder --help` imports every command.
    from forwarder.cli.bench import meaning, measures
    from forwarder.cli.scratch import opened

    where = directory or context.directory
    if not where:
        raise UsageError("the queue is on a server", "Name a directory of the disk to measure: --dir DIR")
    place = os.path.abspath(where)
    _check_room(place, measures.NEEDED_BYTES, 0 if directory else context.settings.queue.min_free_bytes)
    with opened("bench", place) as scratch:
        if not as_json:
            click.echo(
                f"Measuring the disk under {place}, and this machine, for about {5 * each_s + 5:.0f} s.\n",
                err=True,
            )
        sync = measures.sync(scratch.directory, each_s)
        _show_disk(sync, as_json)
        intakes = []
        for intake in measures.intake(scratch.path("intake"), each_s):
            intakes.append(intake)
            _show_intake(intake, as_json)
        delivery = measures.delivery(scratch)
        _show_delivery(delivery, as_json)
    sentences = meaning.of_disk(sync) + meaning.of_intake(intakes) + meaning.of_delivery(delivery)
    if as_json:
        _print_json(sync, intakes, delivery, sentences)
    else:
        click.echo("\n" + "\n".join(sentences))


def _check_room(place: str, needed: int, kept: int) -> None:
    from forwarder.errors import CannotCreateError, TryAgainError
    from forwarder.text import size

    try:
        disk = os.statvfs(place)
    except OSError as error:
        raise CannotCreateError(
            f"can't measure {place}: {error.strerror}", "Name another directory with --dir"
        ) from None
    free = disk.f_bavail * disk.f_frsize
    if free < needed + kept:
        raise TryAgainError(
            f"the disk under {place} has {size(free)} free; measuring needs up to {size(needed)} for a while,"
            f" and {size(kept)} stay free for the queue",
            "Make room, or name another directory with --dir",
        )


def _show_disk(sync: Spread, as_json: bool) -> None:
    from forwarder.cli.bench.meaning import ms

    if not as_json:
        most = f"99 of 100 within {ms(sync.p99_s)}, the longest {ms(sync.worst_s)}"
        click.echo(f"Sync      {ms(sync.median_s)}; {most}")


def _show_intake(intake: Intake, as_json: bool) -> None:
    from forwarder.cli.bench.meaning import ms

    if not as_json:
        times = f"a call takes {ms(intake.spread.median_s)}, 99 of 100 within {ms(intake.spread.p99_s)}"
        click.echo(f"Intake    {intake.events_per_s:>9,.0f} events/s, {intake.batch:>5,} at a time: {times}")


def _show_delivery(delivery: Delivery, as_json: bool) -> None:
    if not as_json:
        cpu = f"{delivery.cpu_s_per_million:.1f} CPU seconds for a million, {delivery.cores:.0%} of a core"
        click.echo(
            f"Delivery  {delivery.events_per_s:>9,.0f} events/s to the stand-in; the daemon takes {cpu}"
        )


def _print_json(sync: Spread, intakes: list[Intake], delivery: Delivery, sentences: list[str]) -> None:
    from dataclasses import asdict

    found = {"sync": asdict(sync), "intake": [asdict(intake) for intake in intakes]}
    print_json([{**found, "delivery": asdict(delivery), "meaning": sentences}])
