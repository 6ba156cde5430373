# SPDX-License-Identifier: Apache-2.0
"""`sllm key`: API keys and their roles."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, get_args

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_json, print_table
from serverlessllm.cli.units import age_text
from serverlessllm.types import DEFAULT_TENANT, Role

if TYPE_CHECKING:
    from serverlessllm.wire.admin import KeyView


@click.group(epilog=exit_codes.EPILOG)
def key() -> None:
    """Create, list and revoke API keys.

    Roles: infer calls models, admin manages the platform too, node joins an agent. Once the first key exists,
    every call needs one.
    """


@key.command(epilog=exit_codes.EPILOG)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    default="infer",
    show_default=True,
    help="What the key may do.",
)
@click.option(
    "--tenant",
    default=DEFAULT_TENANT,
    show_default=True,
    help="Whose requests these are. No tenant's prompts are found in another's cache.",
)
@server_options
def create(session: Session, name: str, role: Role, tenant: str) -> None:
    """Create a key for NAME; its secret is printed on stdout, this once."""
    with session.client() as client:
        created = client.create_key(name, role, tenant)
    if session.as_json:
        print_json(created)
        return
    note(
        f"key {created.key.id} for {name}, role {role}, tenant {tenant}; keep it now, it is not shown again:"
    )
    click.echo(created.secret)


@key.command("list", epilog=exit_codes.EPILOG)
@server_options
def list_keys(session: Session) -> None:
    """List the keys, without their secrets."""
    with session.client() as client:
        keys = client.list_keys()
    if session.as_json:
        print_json({"keys": keys})
        return
    now = time.time()
    print_table(
        ("ID", "NAME", "ROLE", "TENANT", "CREATED"),
        ((view.id, view.name, view.role, view.tenant, age_text(now - view.created_s)) for view in keys),
        empty="no keys: calls from this machine need none",
    )


@key.command(epilog=exit_codes.EPILOG)
@click.argument("key_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def revoke(session: Session, key_id: str, yes: bool) -> None:
    """Revoke the key with this ID (or this name, when only one key has it)."""
    with session.client() as client:
        view = _find(client.list_keys(), key_id)
        if not yes:
            click.confirm(f"Revoke key {view.id} ({view.name}, {view.role})?", abort=True, err=True)
        client.revoke_key(view.id)
    if session.as_json:
        print_json({"deleted": view.id})
    else:
        note(f"key {view.id} ({view.name}) is revoked")


def _find(keys: list[KeyView], wanted: str) -> KeyView:
    """By id, else by a name that only one key has. Raises NotFoundError."""
    from serverlessllm.errors import NotFoundError

    by_id = [view for view in keys if view.id == wanted]
    by_name = [view for view in keys if view.name == wanted]
    found = by_id or by_name
    if len(found) == 1:
        return found[0]
    reason = "several keys have that name; name one by its id" if found else "no such key"
    raise NotFoundError(f"{wanted}: {reason} (`sllm key list` shows them)", param="id")
