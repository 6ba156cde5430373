# SPDX-License-Identifier: Apache-2.0
"""`sllm tune io`: how this node reads its disk fastest, measured once and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from serverlessllm.cli import exit_codes
from serverlessllm.cli.session import json_option
from serverlessllm.cli.terminal import note, print_json, print_table
from serverlessllm.cli.units import bytes_text, duration_text, rate_text, size_text

if TYPE_CHECKING:
    from serverlessllm.cli.progress import ShareProgress
    from serverlessllm.config import Config
    from serverlessllm.loader.tune.range_tuner import RangeResult
    from serverlessllm.loader.tune.tuner import DiskTuning
    from serverlessllm.node_profile import IoProfile

URL_SHARE: Final = 0.4
"""Share of the time that `--url` gets."""


@click.group(epilog=exit_codes.EPILOG)
def tune() -> None:
    """Measure this machine, and remember what suits it."""


@tune.command(epilog=exit_codes.EPILOG)
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="The node's settings, else SLLM_CONFIG."
)
@click.option("--data-dir", help="The node's data directory; its disk is measured.")
@click.option("--url", help="Also measure this object of an origin: how many connections, in which ranges.")
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="How long at most."
)
@click.option("--size", default="1GiB", show_default=True, metavar="SIZE", help="Disk to use at most.")
@json_option
def io(
    config_path: Path | None, data_dir: str | None, url: str | None, seconds: float, size: str, as_json: bool
) -> None:
    """Measure how this node's disk is read fastest; loads do so from the agent's next start on.

    Writes a file without a name to the data directory's disk: it is gone afterwards, however this ends.
    """
    from serverlessllm.cli.progress import ShareProgress
    from serverlessllm.cli.serve import effective_config
    from serverlessllm.config import parse_bytes
    from serverlessllm.node_profile import NodeProfile

    config = effective_config(config_path, {"data_dir": data_dir})
    max_bytes = parse_bytes(size, key="--size")
    disk_s = seconds * (1 - URL_SHARE) if url else seconds
    with ShareProgress("measuring", is_shown=not as_json) as bar:
        ranges = _measure_url(config, url, seconds - disk_s, bar) if url else []
        tuning = _measure_disk(config, disk_s, max_bytes, bar)
    profile = _profile(tuning, ranges)
    NodeProfile(config.data_path).put_io(profile)
    if as_json:
        print_json({"disk": tuning, "ranges": ranges, "profile": profile})
        return
    _print(tuning, ranges)
    note(f"kept in {NodeProfile(config.data_path).path}; a running agent takes it up at its next start")


def _measure_disk(config: Config, seconds: float, max_bytes: int, bar: ShareProgress) -> DiskTuning:
    from serverlessllm.clock import SystemClock
    from serverlessllm.errors import ConfigError
    from serverlessllm.loader.tune.tuner import DiskTuner

    directory = config.data_path / "artifacts"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot use {directory}: {error.strerror}; choose another --data-dir", param="data_dir"
        ) from error
    return DiskTuner(
        directory,
        seconds=seconds,
        max_bytes=max_bytes,
        wants_huge_pages=config.arena.huge_pages != "never",
        clock=SystemClock(),
        on_step=bar.update,
    ).run()


def _measure_url(config: Config, url: str, seconds: float, bar: ShareProgress) -> list[RangeResult]:
    from serverlessllm.config import source_environment
    from serverlessllm.loader.tune.range_tuner import tune_ranges
    from serverlessllm.sources.access import Access
    from serverlessllm.sources.location import Location, open_source

    # The operator of the node names the URL: it may be private.
    access = Access.from_config(config.sources, source_environment(), allow_private_urls=True)
    location = Location.parse(url)
    return tune_ranges(lambda: open_source(location, "", access), seconds=seconds, on_step=bar.update)


def _profile(tuning: DiskTuning, ranges: list[RangeResult]) -> IoProfile:
    import msgspec

    from serverlessllm.clock import SystemClock
    from serverlessllm.loader.tune.range_tuner import choose_connections

    profile = tuning.profile(SystemClock().wall_s())
    if not ranges:
        return profile
    best = choose_connections(ranges)
    return msgspec.structs.replace(
        profile, num_connections=best.num_connections, range_bytes=best.range_bytes
    )


def _print(tuning: DiskTuning, ranges: list[RangeResult]) -> None:
    from serverlessllm.loader.tune.range_tuner import choose_connections

    order = sorted(tuning.results, key=lambda result: -result.bytes_per_s)
    print_table(
        ("DISK", "PAGES", "THREADS", "READ", "SPEED", "CPU-S/GB", ""),
        (
            (
                result.trial.method,
                size_text(result.trial.page_bytes),
                str(result.trial.num_threads),
                size_text(result.trial.read_bytes),
                rate_text(result.bytes_per_s),
                f"{result.cpu_s_per_gb:.3f}",
                "← loads" if result is tuning.best else "",
            )
            for result in order
        ),
        empty="nothing was measured",
        right=("PAGES", "THREADS", "READ", "SPEED", "CPU-S/GB"),
    )
    if ranges:
        click.echo()
        _print_ranges(ranges, choose_connections(ranges))
    if not tuning.has_huge_pages:
        note("no huge pages: the memory had 4 KiB pages (see `sllm doctor`)")
    note(
        f"{tuning.directory}: {rate_text(tuning.possible_bytes_per_s)} possible; measured with "
        f"{bytes_text(tuning.file_bytes)} in {duration_text(tuning.seconds)}"
    )


def _print_ranges(ranges: list[RangeResult], best: RangeResult) -> None:
    print_table(
        ("CONNECTIONS", "RANGE", "SPEED", ""),
        (
            (
                str(result.num_connections),
                size_text(result.range_bytes),
                rate_text(result.bytes_per_s),
                "← fetches" if result is best else "",
            )
            for result in sorted(ranges, key=lambda result: -result.bytes_per_s)
        ),
        empty="nothing was measured",
        right=("CONNECTIONS", "RANGE", "SPEED"),
    )
