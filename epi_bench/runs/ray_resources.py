"""What runs on Ray are to have, and whether the machines have it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from epi_bench.errors import UserError


@dataclass(frozen=True)
class RaySettings:
    """How Ray is asked to make runs.

    The attributes are the arguments of :class:`epi_bench.runs.ray_cluster.RayCluster`.
    """

    address: str | None = None
    cpus_per_run: float = 1
    gpus_per_run: float = 0
    timeout: float | None = None
    retries: int = 3


def check_settings(settings: RaySettings) -> None:
    """Refuse what Ray cannot be asked for.

    Raises:
        UserError: If a value is out of range.
    """
    if not 0 < settings.cpus_per_run < inf:
        raise UserError(
            f"cpus_per_run={settings.cpus_per_run:g} must be above 0", setting="cpus_per_run"
        )
    gpus = settings.gpus_per_run
    if not 0 <= gpus < inf or (gpus > 1 and gpus % 1):
        raise UserError(
            f"gpus_per_run={gpus:g} must be 0, a fraction of one, or a whole number",
            setting="gpus_per_run",
        )
    if settings.timeout is not None and not 0 < settings.timeout < inf:
        raise UserError(f"timeout={settings.timeout:g} must be above 0 seconds", setting="timeout")
    if settings.retries < 0:
        raise UserError(f"retries={settings.retries} must be 0 or more", setting="retries")
    if settings.address is not None and not settings.address.strip():
        raise UserError("address is empty: give one, or leave it out", setting="address")


def check_resources(settings: RaySettings) -> str | None:
    """Compare what a run is to have with what the machines have.

    Returns:
        A warning, or ``None``.

    Raises:
        UserError: If Ray was started here alone and this machine does not have it.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {"CPU": settings.cpus_per_run, "GPU": settings.gpus_per_run}
    fits = [all(m.get(k, 0) >= n for k, n in wanted.items()) for m in machines]
    if not any(fits):
        most = {kind: max(m.get(kind, 0) for m in machines) for kind in wanted}
        problem = (
            f"a run is to have {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs, and no machine "
            f"has more than {most['CPU']:g} and {most['GPU']:g}"
        )
        if settings.address is None:
            names = ["cpus_per_run", "gpus_per_run"]
            short = [n for n, kind in zip(names, wanted, strict=True) if wanted[kind] > most[kind]]
            raise UserError(f"{problem}: lower {' and '.join(short)}", setting=short)
        return f"{problem}: the runs wait until one joins"
    if not settings.gpus_per_run and any(m.get("GPU") for m in machines):
        return "runs get no GPU, though there are some: gpus_per_run gives them one"
    return None


def room(settings: RaySettings) -> int:
    """How many runs the machines hold at a time; at least one."""
    import ray

    wanted = {"CPU": settings.cpus_per_run, "GPU": settings.gpus_per_run}
    held = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            held += int(min(has.get(kind, 0) / n for kind, n in wanted.items() if n))
    return max(held, 1)
