# SPDX-License-Identifier: Apache-2.0
"""`sllm model`: register, pull, list, show and remove models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.pull import pull
from serverlessllm.cli.session import Session, server_options
from serverlessllm.cli.terminal import note, print_fields, print_json, print_table
from serverlessllm.cli.units import age_text, bytes_text, duration_text
from serverlessllm.types import MAX_TENSOR_PARALLEL, TENSOR_PARALLEL_OPTION, EngineKind

if TYPE_CHECKING:
    from serverlessllm.sdk.calls import ModelSettings
    from serverlessllm.sdk.orchestrator import Client
    from serverlessllm.wire.admin import ModelView, ReplicaView

Dtype = Literal["bfloat16", "float16", "float32"]


@click.group(epilog=exit_codes.EPILOG)
def model() -> None:
    """Register, pull, list, show and remove models."""


class EngineOption(click.ParamType[tuple[str, float]]):
    """`key=number`, an option that goes to the engine as it is."""

    name = "KEY=NUMBER"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        key, equals, number = str(value).partition("=")
        try:
            if key and equals:
                return key, float(number)
        except ValueError:
            pass
        self.fail(f"{value!r} is not KEY=NUMBER, e.g. load_s=2", param, ctx)


@model.command(epilog=exit_codes.EPILOG)
@click.argument("name")
@click.argument("source")
@click.option(
    "--engine",
    type=click.Choice(get_args(EngineKind)),
    default="torch",
    show_default=True,
    help="What runs it.",
)
@click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    help="Round the weights to this, once; without it they stay as is.",
)
@click.option(
    "--keep-alive",
    "keep_alive_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Idle time after which it sleeps; without it the server's.",
)
@click.option(
    "--option", "options", type=EngineOption(), multiple=True, help="For the engine; may be repeated."
)
@click.option(
    "--tensor-parallel",
    "num_ranks",
    type=click.IntRange(1, MAX_TENSOR_PARALLEL),
    metavar="N",
    help="Compute it in N workers of one node together; without it, in one.",
)
@click.option(
    "--lazy/--now",
    "lazy",
    default=None,
    help="Fetch and convert at the first call, or now; without either, what lies elsewhere at the first call.",
)
@click.option(
    "--min-replicas",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Replicas that never sleep.",
)
@click.option(
    "--max-replicas",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most replicas while its queue is long; without it one per node.",
)
@click.option("--no-wait", is_flag=True, help="Return at once; `sllm model show NAME` tells how far it is.")
@server_options
def add(
    session: Session,
    name: str,
    source: str,
    engine: EngineKind,
    dtype: Dtype | None,
    keep_alive_s: float | None,
    options: tuple[tuple[str, float], ...],
    num_ranks: int | None,
    lazy: bool | None,
    min_replicas: int,
    max_replicas: int | None,
    no_wait: bool,
) -> None:
    """Register SOURCE as model NAME.

    SOURCE is a path on the server's machine (a Hugging Face directory with safetensors or PyTorch weights, a GGUF
    file, an artifact), a repository of the hub (`org/name`, `hf://org/name@revision`), `s3://bucket/prefix`, or an
    http(s) URL of a directory, an archive or a GGUF file. What lies elsewhere is fetched with the first call.
    NAME may be `model:adapter`: then SOURCE is a LoRA adapter of that model, as PEFT saves it.
    """
    settings: ModelSettings = {
        "engine": engine,
        "dtype": dtype,
        "keep_alive_s": keep_alive_s,
        "options": dict(options) | ({} if num_ranks is None else {TENSOR_PARALLEL_OPTION: float(num_ranks)}),
        "lazy": lazy,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
    }
    with session.client() as client:
        view = _register(
            client, name, absolute(source), settings, wait=not no_wait, is_shown=not session.as_json
        )
    if session.as_json:
        print_json(view)
    elif view.state == "ready":
        note(f"{name} is ready: {bytes_text(view.nbytes)}, revision {view.revision}; try `sllm chat {name}`")
    elif view.state == "remote":
        note(
            f"{name} is registered; its bytes come with the first call, or now with `sllm model pull {name}`"
        )
    else:
        note(f"{name} is being registered; `sllm model show {name}` tells how far it is")


def absolute(source: str) -> str:
    """The server has another working directory: what exists here is named from the root; the rest is left."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def _register(
    client: Client, name: str, source: str, settings: ModelSettings, *, wait: bool, is_shown: bool
) -> ModelView:
    from serverlessllm.cli.progress import ByteProgress

    with ByteProgress(f"registering {name}", is_shown=is_shown and wait) as bar:

        def draw(view: ModelView) -> None:
            if view.progress is not None:
                bar.describe(f"{view.progress.phase} {name}")
                bar.update(view.progress.done_bytes, view.progress.total_bytes)

        return client.add_model(name, source, wait=wait, on_progress=draw, **settings)


@model.command("list", epilog=exit_codes.EPILOG)
@server_options
def list_models(session: Session) -> None:
    """List the registered models."""
    with session.client() as client:
        models = client.models()
    if session.as_json:
        print_json({"models": models})
        return
    print_table(
        ("NAME", "ENGINE", "SIZE", "TIER", "STATE", "ADDED"),
        (
            (
                view.name,
                view.engine,
                size_text_of(view),
                view.tier or "–",
                state_of(view),
                age_text(time.time() - view.created_s),
            )
            for view in models
        ),
        empty="no models; register one with `sllm model add NAME SOURCE`",
        right=("SIZE",),
    )


@model.command(epilog=exit_codes.EPILOG)
@click.argument("name")
@server_options
def show(session: Session, name: str) -> None:
    """Show one model."""
    with session.client() as client:
        view = client.get_model(name)
    if session.as_json:
        print_json(view)
        return
    print_fields(
        [
            ("name", view.name),
            ("state", f"{state_of(view)}{_progress_text(view)}"),
            ("error", view.error or ""),
            ("source", view.source),
            ("fetched from", view.resolved if view.resolved != view.source and view.resolved else ""),
            *(("also in", origin) for origin in view.origins),
            ("revision", view.revision or ""),
            ("engine", view.engine),
            ("dtype", view.dtype or "as in the source"),
            ("size", size_text_of(view)),
            ("tier", view.tier or "–"),
            ("keep-alive", duration_text(view.keep_alive_s)),
            ("options", " ".join(f"{key}={value:g}" for key, value in view.options.items())),
            ("waiting", str(view.num_held) if view.num_held else ""),
            *(("replica", _replica_text(replica)) for replica in view.replicas),
        ]
    )


def size_text_of(view: ModelView) -> str:
    """The weights' size; a dash while it is not known."""
    return bytes_text(view.nbytes) if view.nbytes else "–"


def state_of(view: ModelView) -> str:
    """The model in one word: its registration's state, and once that is done its replicas'."""
    if view.state == "remote" and view.progress is not None:
        return "fetching"
    if view.state != "ready":
        return view.state
    states = [replica.status.state for replica in view.replicas]
    return next((state for state in ("ready", "binding", "loading", "draining") if state in states), "asleep")


def _progress_text(view: ModelView) -> str:
    progress = view.progress
    if progress is None:
        return ""
    total = f" of {bytes_text(progress.total_bytes)}" if progress.total_bytes else ""
    return f", {progress.phase} {bytes_text(progress.done_bytes)}{total}"


def _replica_text(replica: ReplicaView) -> str:
    status = replica.status
    busy = f"{status.num_running} running, {status.num_queued} queued"
    if not status.num_running:
        busy = f"idle {duration_text(status.idle_s)}"
    pid = f", pid {status.pid}" if status.pid is not None else ""
    return f"{status.state} on {replica.agent_id} ({status.device_set}{pid}), {busy}"


@model.command(epilog=exit_codes.EPILOG)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def rm(session: Session, name: str, yes: bool) -> None:
    """Unregister a model and delete its artifact; its source stays."""
    with session.client() as client:
        client.get_model(name)
        if not yes:
            click.confirm(f"Remove {name} and delete its converted weights?", abort=True, err=True)
        client.remove_model(name)
    if session.as_json:
        print_json({"deleted": name})
    else:
        note(f"{name} is removed")


model.add_command(pull)
