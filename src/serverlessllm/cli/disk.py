# SPDX-License-Identifier: Apache-2.0
"""`sllm disk`: what lies on the nodes' disks, and making room there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import DEFAULT_URL, Session, server_options
from serverlessllm.cli.terminal import note, print_json, print_table
from serverlessllm.cli.units import age_text, bytes_text, count_text
from serverlessllm.errors import UnreachableError

if TYPE_CHECKING:
    from serverlessllm.wire.disk import CleanDisk, CleanedView, DiskCleaned, DiskCopy, DiskStatus, DiskView

T = TypeVar("T")

WHAT: Final = {
    "artifact": "artifact",
    "fetching": "half-fetched artifact",
    "source": "fetched source",
    "quarantined": "quarantined",
    "leftover": "left over",
}


class Disks(Protocol):
    """A server's client, or a directory that no server has."""

    def disks(self) -> DiskView: ...

    def clean_disks(self, wish: CleanDisk) -> CleanedView: ...


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Look at this directory itself; no server may run on it.",
)


@click.group(invoke_without_command=True, epilog=exit_codes.EPILOG)
@data_dir_option
@server_options
@click.pass_context
def disk(ctx: click.Context, session: Session, data_dir: Path | None) -> None:
    """Show what lies on the nodes' disks: artifacts, what is half-fetched, what was put aside.

    Where no server answers, and none was named, the data directory itself is looked at.
    """
    if ctx.invoked_subcommand is not None:
        return
    view = _ask(session, data_dir, lambda disks: disks.disks())
    if session.as_json:
        print_json(view)
        return
    for number, node in enumerate(view.nodes):
        if number:
            click.echo()
        _print_node(node)
    if not view.nodes:
        note("no agent is alive; see `sllm ps`")


@disk.command(epilog=exit_codes.EPILOG)
@click.option("--fetched", is_flag=True, help="Also half-fetched artifacts and fetched sources.")
@click.option("--artifacts", is_flag=True, help="Also artifacts that no model is registered with.")
@click.option(
    "--to",
    "to_text",
    metavar="SIZE",
    help="Go on until no more than SIZE is held on each node (e.g. 100GiB): half-fetched files, artifacts without a "
    "model, then those that an origin can bring back, the longest unused first.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_dir_option
@server_options
def clean(
    session: Session,
    fetched: bool,
    artifacts: bool,
    to_text: str | None,
    dry_run: bool,
    yes: bool,
    data_dir: Path | None,
) -> None:
    """Remove what nobody needs: quarantined copies and what killed writers left.

    What a load, a fetch, a conversion or a replica uses stays in any case.
    """
    import msgspec

    from serverlessllm.config import parse_bytes
    from serverlessllm.wire.disk import CleanDisk

    to_bytes = None if to_text is None else parse_bytes(to_text, key="--to")
    wish = CleanDisk(fetched=fetched, artifacts=artifacts, to_bytes=to_bytes, dry_run=dry_run)
    if not dry_run and not yes:
        trial = msgspec.structs.replace(wish, dry_run=True)
        plan = _ask(session, data_dir, lambda disks: disks.clean_disks(trial))
        if not _confirmed(session, plan):
            return
    done = _ask(session, data_dir, lambda disks: disks.clean_disks(wish))
    if session.as_json:
        print_json(done)
        return
    for node in done.nodes:
        _tell(node, wish)


def _confirmed(session: Session, plan: CleanedView) -> bool:
    """Show what would go and ask; False when there is nothing to be done. Raises Abort for a no."""
    removed = [copy for node in plan.nodes for copy in node.removed]
    if not removed:
        if session.as_json:
            print_json(plan)
        else:
            note("nothing to remove")
        return False
    for copy in removed:
        note(f"{WHAT[copy.kind]}  {copy.path}  {_owner(copy)}  {bytes_text(copy.nbytes)}")
    size = bytes_text(sum(copy.nbytes for copy in removed))
    click.confirm(f"Remove {count_text(len(removed), 'thing')}, {size}?", abort=True, err=True)
    return True


def _tell(node: DiskCleaned, wish: CleanDisk) -> None:
    size = bytes_text(sum(copy.nbytes for copy in node.removed))
    if wish.dry_run:
        print_table(
            ("WHAT", "WHERE", "SIZE"),
            ((WHAT[copy.kind], copy.path, bytes_text(copy.nbytes)) for copy in node.removed),
            empty="nothing to remove",
            right=("SIZE",),
        )
        note(f"would free {size}; nothing was removed")
    else:
        note(f"freed {size}; {bytes_text(node.disk.held_bytes)} are held, {_free_text(node.disk)}")
    if not node.is_reached and wish.to_bytes is not None:
        note(
            f"more than {bytes_text(wish.to_bytes)} stays: the rest is in use, or nothing else holds it "
            "(`sllm model rm` gives a model up)"
        )


def _print_node(node: DiskStatus) -> None:
    budget = f"of {bytes_text(node.budget_bytes)} " if node.budget_bytes else ""
    click.echo(f"{node.agent_id}  {node.directory}")
    click.echo(f"{bytes_text(node.held_bytes)} {budget}held, {_free_text(node)}")
    print_table(
        ("WHAT", "MODELS", "REVISION", "SIZE", "LAST USED", "CHECKED", "NOTES"),
        (_row(copy) for copy in node.copies),
        empty="nothing is there",
        right=("SIZE",),
    )


def _free_text(node: DiskStatus) -> str:
    return f"{bytes_text(node.free_bytes)} of {bytes_text(node.total_bytes)} free on its disk"


def _row(copy: DiskCopy) -> tuple[str, ...]:
    checked = {True: "yes", False: "no", None: "–"}[copy.is_verified]
    notes = [
        *(["in use"] if copy.is_in_use else []),
        *(["also elsewhere"] if copy.origins else []),
        *([Path(copy.path).name] if copy.kind in ("quarantined", "source", "leftover") else []),
    ]
    return (
        WHAT[copy.kind],
        _owner(copy),
        copy.revision[:12] or "–",
        bytes_text(copy.nbytes),
        age_text(max(0.0, time.time() - copy.last_used_s)),
        checked if copy.kind == "artifact" else "–",
        ", ".join(notes),
    )


def _owner(copy: DiskCopy) -> str:
    """The models that it belongs to."""
    if copy.models:
        return ", ".join(copy.models)
    return "none" if copy.models == [] and copy.kind == "artifact" else "–"


def _ask(session: Session, data_dir: Path | None, question: Callable[[Disks], T]) -> T:
    """The server's answer; the directory's own where one is named, or where the usual server does not run."""
    if data_dir is None:
        try:
            with session.client() as client:
                return question(client)
        except UnreachableError:
            if session.url != DEFAULT_URL:
                raise
    with _directory(data_dir) as disks:
        return question(disks)


@contextmanager
def _directory(data_dir: Path | None) -> Iterator[Disks]:
    from serverlessllm.cli.local_disk import local_disk
    from serverlessllm.cli.serve import effective_config

    given: dict[str, object] = {} if data_dir is None else {"data_dir": str(data_dir)}
    with local_disk(effective_config(None, given)) as disks:
        yield disks
