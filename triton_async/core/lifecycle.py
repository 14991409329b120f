"""One model version from a loaded engine to READY and back: starts its instances, drains and frees it. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from triton_async.backends.base import BatchRule, LoadedModel, ModelInstance
from triton_async.config.host_policy import HostPolicy
from triton_async.config.model_config import Instance as InstanceConfig
from triton_async.config.model_config import InstanceKind, ModelConfig
from triton_async.core.agents import AgentRun
from triton_async.core.auto_delay import AutoDelay
from triton_async.core.batcher import DynamicBatcher
from triton_async.core.carried import Earlier, same_series
from triton_async.core.changing import change_instances
from triton_async.core.defines import UNLOAD_GIVE_UP_S, UNLOAD_TOLD_S
from triton_async.core.files import Fingerprint, ModelFiles
from triton_async.core.host import Host
from triton_async.core.injection import Injection
from triton_async.core.instances import Instance
from triton_async.core.limited_model import LimitedModel
from triton_async.core.limiter import Claim
from triton_async.core.model import Model
from triton_async.core.model_lock import in_turn
from triton_async.core.opening import (
    Closable,
    OpenVersion,
    active_instances,
    close_all,
    engine_maker,
    make_engines,
    on_own_threads,
    open_version,
    parts_of,
)
from triton_async.core.phases import latencies_of
from triton_async.core.placement import MemoryUsage, check_load_limits, gpus_in_use, used_nbytes
from triton_async.core.queue import RequestQueue
from triton_async.core.scheduler import Scheduler
from triton_async.core.sequence_model import SequenceModel
from triton_async.core.sequences import SequenceBatcher
from triton_async.core.servable import Servable
from triton_async.core.stuck import give_up, holding
from triton_async.core.warmup_samples import read_samples
from triton_async.errors import InternalError, InvalidArg
from triton_async.infer.signature import ModelSignature
from triton_async.memory.binding import bind
from triton_async.memory.slab import SlabPool

log = logging.getLogger("triton_async.core")


class State(Enum):
    """States of a model version in the repository index.

    UNAVAILABLE -> LOADING -> READY -> UNLOADING -> UNAVAILABLE; LOADING -> UNAVAILABLE when the load fails.
    """

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


# All that a config says of one instance, but for its name and that of its group; and a number among those alike.
Slot = tuple[Any, ...]


def slots(config: ModelConfig) -> dict[Slot, InstanceConfig]:
    """The instances of a config, in the order in which they are made."""
    found: dict[Slot, InstanceConfig] = {}
    alike: Counter[Slot] = Counter()
    for spec in config.instances():
        group = config.instance_groups[spec.group]
        rest = group.gpus, group.profile, group.resources, group.priority
        slot = (spec.kind, spec.device, spec.passive, spec.host_policy, *rest)
        found[(*slot, alike[slot])] = spec
        alike[slot] += 1
    return found


@dataclass(slots=True)
class LoadedVersion:
    """A version that takes requests. `loaded`: what its instances share; None for an ensemble. `load_secs`: how long
    its load took. `memory`: what it took, where known. `labels`: of its metrics, once they are known for good. `files`:
    that it was loaded from, `contents` (files.of_version) what they held then. `made`: its instances, by what their
    config says of each (`slots`); `passive`: those that get no requests. `leaving`: ends of those that had to go.
    """

    version: int
    model: Servable
    loaded: LoadedModel | None
    load_secs: float
    memory: tuple[MemoryUsage, ...] = ()
    labels: str = ""
    files: ModelFiles | None = None
    contents: Fingerprint = ()
    made: dict[Slot, Instance] = field(default_factory=dict)
    passive: list[Instance] = field(default_factory=list)
    leaving: set[asyncio.Task[None]] = field(default_factory=set)
    # Of a model with sequences.
    injection: Injection | None = None
    # Who hears of the end of what it was loaded with; None: nobody.
    agents: AgentRun | None = None
    # What the counters of its metrics begin with; None: zero.
    earlier: Earlier | None = None

    def follow(self, old: LoadedVersion) -> None:
        """Is to serve in the place of the older load from now on."""
        self.model.follow(old.model)
        if same_series(old.model.config, self.model.config):
            self.earlier = Earlier(old.model.statistics, old.earlier)


async def load_version(host: Host, config: ModelConfig, version: int, model_dir: Path) -> LoadedVersion:
    """Loads a version and starts all its instances. ServerError with the reason; nothing is left behind then."""
    gpus = gpus_in_use(config)
    place = host.gpu_loads.begin(gpus)
    try:
        before = await host.loading(_used_before, host, gpus) if gpus else {}
        opened = await host.loading(open_version, host, config, version, model_dir)
        loaded = await start_version(host, config, opened)
        after = await host.loading(_used_after, host, gpus) if gpus else {}
    finally:
        alone = host.gpu_loads.end(place)
    grown = {gpu: after[gpu] - before[gpu] for gpu in alone if gpu in after}
    loaded.memory = tuple(MemoryUsage("GPU", gpu, nbytes) for gpu, nbytes in grown.items() if nbytes > 0)
    return loaded


def _used_before(host: Host, gpus: tuple[int, ...]) -> dict[int, int]:
    devices = host.open_devices()
    check_load_limits(devices, gpus, host.gpu_limits)
    return used_nbytes(devices, gpus)


def _used_after(host: Host, gpus: tuple[int, ...]) -> dict[int, int]:
    try:
        return used_nbytes(host.open_devices(), gpus)
    except Exception:  # for the statistics alone: the model is loaded, and must not be lost for that
        log.exception("the memory that a model took on its GPUs is not known")
        return {}


async def start_version(host: Host, config: ModelConfig, opened: OpenVersion) -> LoadedVersion:
    """Takes over an opened version and makes it take batches. ServerError with the reason; it is closed then."""
    loaded = opened.loaded
    made: list[Instance] = []
    claims: list[Claim | None] = []
    try:
        if host.limiter is not None:
            where = f"the config of model '{config.name}'"
            claims = host.limiter.add(active_instances(config), config.instance_groups, where)
        if on_own_threads(host, config, loaded):
            made = await _start_instances(host, config, loaded, config.instances())
        else:
            made = _adopt_engines(host, config, loaded, config.instances(), opened.engines)
        active = [not spec.passive for spec in config.instances()]
        instances = list(compress(made, active))
        injection = _make_injection(config, opened, instances)
        await host.warm_ups.run(host.reactor, config, opened.signature, instances, opened.samples, injection)
        scheduler = make_scheduler(config, opened.signature, instances, injection, host, loaded.batch_rule)
        cache = host.cache if config.proto.response_cache.enable else None
        # On the loop thread they would not run where their policy has them.
        runs_here = host.loop_executions and not host.policies_of(config)
        # Behind the instances, which may have read files too.
        identity = b"" if opened.files is None else await host.loading(opened.files.digest, config)
        pool = _input_pool(config, loaded)
        if isinstance(scheduler, SequenceBatcher):
            model: Model = SequenceModel(host.reactor, opened.signature, config, instances, scheduler, pool,
                                         runs_here, identity)  # fmt: skip
        else:
            kind = LimitedModel if any(claims) else Model
            model = kind(host.reactor, opened.signature, config, instances, scheduler, pool, cache,
                         runs_here, identity)  # fmt: skip
        model.statistics.latencies = latencies_of(config, host.measured, model.cache is not None)
        if host.limiter is not None and any(claims):
            model.limit(host.limiter, claims)
    except BaseException:
        if host.limiter is not None:
            host.limiter.remove(claims)
        # Of a model that does not bind them, some engines may have a thread by now, which closes them.
        await _free(host, made, loaded if made else opened)
        raise
    passive = [instance for instance in made if instance not in instances]
    return LoadedVersion(
        opened.version, model, loaded, time.monotonic() - opened.begun,
        made=dict(zip(slots(config), made, strict=True)), passive=passive, injection=injection,
    )  # fmt: skip


def fits_in_place(host: Host, version: LoadedVersion, config: ModelConfig, contents: Fingerprint) -> bool:
    """Whether `config` differs from what the version has in instances alone, or in its version policy, and its files do
    not. Never on GPUs, and where instances wait for the rate limiter: these are loaded anew.
    """
    loaded, old = version.loaded, version.model.config
    if loaded is None or not contents or contents != version.contents:
        return False
    if version.agents is not None:  # they are told of each load
        return False
    groups = (*old.instance_groups, *config.instance_groups)
    if any(group.kind is InstanceKind.GPU for group in groups):
        return False
    if host.limiter is not None and any(group.resources for group in groups):
        return False
    if loaded.counts_instances and len(old.instances()) != len(config.instances()):
        return False
    return bool(_without_instances(old) == _without_instances(config))


def _without_instances(config: ModelConfig) -> Any:
    proto = type(config.proto)()
    proto.CopyFrom(config.proto)
    proto.ClearField("instance_group")
    proto.ClearField("version_policy")
    return proto


def _change(
    model: Servable, config: ModelConfig, serving: list[Instance], gone: list[Instance],
    on_gone: Callable[[Instance], None],
) -> None:  # fmt: skip
    if isinstance(model, SequenceModel):
        model.change_instances(config, serving, gone, on_gone)
    else:
        change_instances(model, config, serving, gone, on_gone)


class Update(NamedTuple):
    """Of a READY version in place: to be applied, or dropped. `made`: the instances that it has not yet, by slot."""

    version: LoadedVersion
    config: ModelConfig
    made: Mapping[Slot, Instance]


async def prepare_update(host: Host, version: LoadedVersion, config: ModelConfig, model_dir: Path) -> Update:
    """Makes the instances that a READY version lacks for a config that `fits_in_place`. ServerError with the reason."""
    loaded = version.loaded
    assert loaded is not None
    wanted = slots(config)
    new = {slot: spec for slot, spec in wanted.items() if slot not in version.made}
    made: list[Instance] = []
    try:
        if on_own_threads(host, config, loaded):
            made = await _start_instances(host, config, loaded, list(new.values()))
        else:
            engines = await host.loading(make_engines, config, loaded, list(new.values()))
            made = _adopt_engines(host, config, loaded, list(new.values()), engines)
        signature = version.model.signature
        samples = await host.loading(read_samples, config, signature, model_dir) if made else []
        active = [instance for instance, spec in zip(made, new.values(), strict=True) if not spec.passive]
        await host.warm_ups.run(host.reactor, config, signature, active, samples, version.injection)
    except BaseException:
        await _free(host, made, None)
        raise
    return Update(version, config, dict(zip(new, made, strict=True)))


async def drop_update(host: Host, update: Update) -> None:
    """Frees what was made for it."""
    await _free(host, list(update.made.values()), None)


def apply_update(host: Host, update: Update) -> None:
    """From here on the version has the instances of the new config; what has to go finishes what it has begun."""
    version, config, made = update
    wanted = slots(config)
    known = {**version.made, **made}
    gone = [slot for slot in version.made if slot not in wanted]
    version.made = {slot: known[slot] for slot in wanted}
    serving = [instance for slot, instance in version.made.items() if not wanted[slot].passive]
    leaving = [(known[slot], known[slot] in version.passive) for slot in gone]
    version.passive = [instance for instance in version.made.values() if instance not in serving]
    ends = {instance: host.loop.create_future() for instance, _ in leaving}
    active = [instance for instance, passive in leaving if not passive]
    _change(version.model, config, serving, active, lambda instance: ends[instance].set_result(None))
    for instance, passive in leaving:
        if passive:
            ends[instance].set_result(None)
        task = host.loop.create_task(_leave(host, instance, ends[instance]))
        version.leaving.add(task)
        task.add_done_callback(version.leaving.discard)
    log.info(
        "updated '%s' version %d in place: %d instances more, %d less",
        config.name, version.version, len(made), len(gone),
    )  # fmt: skip


async def _leave(host: Host, instance: Instance, has_nothing: asyncio.Future[None]) -> None:
    await has_nothing
    try:
        await _free(host, [instance], None)
    except Exception:
        log.exception("an instance could not be freed")


async def retire(host: Host, version: LoadedVersion, tell: Callable[[str], None] | None = None) -> None:
    """Lets the version finish what it has, then stops its instances and frees it. `tell`: is called with what it waits
    for, when that takes long.
    """
    watching = host.loop.create_task(_watch_end(version, tell))
    try:
        await _retire(host, version)
    finally:
        watching.cancel()


async def _watch_end(version: LoadedVersion, tell: Callable[[str], None] | None) -> None:
    """Says what an unload waits for, and has engines give it up behind the time that their model has for it."""
    model, told = version.model, ""
    limit_s = (0.0 if version.loaded is None else version.loaded.unload_limit_s) or math.inf
    waited_s = 0.0
    while True:
        if isinstance(model, SequenceModel) and model.lingers:  # its sequences go on, for as long as they may
            await asyncio.sleep(UNLOAD_TOLD_S)
            continue
        step_s = min(UNLOAD_TOLD_S, limit_s - waited_s) if waited_s < limit_s else UNLOAD_GIVE_UP_S
        await asyncio.sleep(step_s)
        waited_s += step_s
        reason = holding(model)
        if limit_s < math.inf and model.in_flight:
            reason += f", for {limit_s:g} s at the most"
        if reason != told:
            told = reason
            signature = model.signature
            log.warning("the unload of '%s' version %d %s", signature.model_name, signature.model_version, reason)
            if tell is not None:
                tell(reason)
        if waited_s >= limit_s:
            give_up(model, f"it is unloaded, and it had not ended what it executed within {limit_s:g} s")


async def _retire(host: Host, version: LoadedVersion) -> None:
    agents = version.agents
    if agents is not None:
        agents.users -= 1
        if not agents.users:
            await host.unloading(agents.unload)
    await version.model.drain()
    if version.leaving:
        await asyncio.wait(version.leaving)
    await _free(host, [*version.model.take_instances(), *version.passive], version.loaded)
    if agents is not None:
        agents.remaining -= 1
        if not agents.remaining:
            await host.unloading(agents.unloaded)


async def _free(host: Host, instances: list[Instance], rest: Closable | None) -> None:
    ends = [_stop_threads(host, [instance for instance in instances if instance.started])]
    unused = [instance for instance in instances if not instance.started]
    if unused:
        ends.append(host.unloading(close_all, unused))
    await asyncio.gather(*ends)
    if rest is not None:
        await host.unloading(close_all, parts_of(rest) if isinstance(rest, LoadedModel) else [rest])


def _input_pool(config: ModelConfig, loaded: LoadedModel) -> SlabPool | None:
    return loaded.input_pool if config.proto.optimization.input_pinned_memory.enable else None


def _make_injection(config: ModelConfig, opened: OpenVersion, instances: list[Instance]) -> Injection | None:
    if config.sequences is None:
        return None
    # What Python models return as states is lent by them.
    return Injection(opened.signature, config.sequences, opened.initial_states, _by_request(instances))


def _by_request(instances: list[Instance]) -> bool:
    return any(instance.by_request for instance in instances)


def make_scheduler(  # noqa: PLR0917
    config: ModelConfig, signature: ModelSignature, instances: list[Instance], injection: Injection | None,
    host: Host, rule: BatchRule | None = None,
) -> Scheduler:  # fmt: skip
    """The scheduler that the config asks for. `rule`: of the model's own, that its batcher asks beside."""
    batching, held = config.dynamic_batching, host.held_schedulers
    if config.sequences is not None and injection is not None:
        # A model that is handed requests, not rows, has no use for rows of nobody.
        pads = not _by_request(instances)
        return SequenceBatcher(
            signature, config.sequences, injection, instances, pads, held.queued, held.backlog
        )
    if batching is None:
        return DynamicBatcher(signature, RequestQueue())
    queue = RequestQueue(
        batching.default_policy, batching.priority_levels, batching.default_priority_level, batching.priority_policies,
        batching.by_deadline,
    )  # fmt: skip
    finds = host.auto_queue_delay if batching.auto_delay is None else batching.auto_delay
    auto = AutoDelay(config.max_batch_size, batching.max_queue_delay_us, len(instances)) if finds else None
    return DynamicBatcher(signature, queue, batching, held.queued, auto, rule)


def _make_instance(host: Host, spec: InstanceConfig) -> Instance:
    device = spec.device if spec.kind is InstanceKind.GPU else -1
    return Instance(spec.name, host.reactor, host.pool, host.use_gpu, device)


def _adopt_engines(
    host: Host, config: ModelConfig, loaded: LoadedModel, specs: Iterable[InstanceConfig], engines: list[ModelInstance]
) -> list[Instance]:
    made: list[Instance] = []
    for spec, engine in zip(specs, engines, strict=True):
        instance = _make_instance(host, spec)
        instance.adopt(engine, engine_maker(config, loaded, spec))
        made.append(instance)
    return made


async def _start_instances(
    host: Host, config: ModelConfig, loaded: LoadedModel, specs: Iterable[InstanceConfig]
) -> list[Instance]:
    made: list[Instance] = []
    waiting: list[asyncio.Future[None]] = []
    for spec in specs:
        instance = _make_instance(host, spec)
        started: asyncio.Future[None] = host.loop.create_future()
        try:
            make = partial(in_turn().run, _maker(host, config, loaded, spec))
            instance.start(make, _settler(host.loop, started))
        except RuntimeError:
            started.set_exception(InternalError(f"the thread of instance '{spec.name}' could not be started"))
        made.append(instance)
        waiting.append(started)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    failed = next((result for result in results if result is not None), None)
    if failed is None:
        return made
    running = [instance for instance, result in zip(made, results, strict=True) if result is None]
    await _stop_threads(host, running)
    raise failed


def _maker(
    host: Host, config: ModelConfig, loaded: LoadedModel, spec: InstanceConfig
) -> Callable[[], ModelInstance]:
    """What makes the engine of an instance on its thread, which from then on is where its host policy, or else
    --cpu-affinity, has it.
    """
    make = engine_maker(config, loaded, spec)
    policy = host.policies.get(spec.host_policy, HostPolicy())
    cores = policy.cpu_cores or host.cores
    if not cores and policy.numa_node < 0:
        return make

    def placed() -> ModelInstance:
        if policy.numa_node >= 0 and not loaded.follows_memory_policy:
            raise InvalidArg(
                f"host policy '{spec.host_policy}' of instance '{spec.name}' has the setting 'numa-node', which worker "
                "processes do not take: give 'cpu-cores' alone, the cores of that node, or run the model in the server"
            )
        try:
            bind(cores, policy.numa_node)
        except OSError as error:
            what = f"host policy '{spec.host_policy}'" if spec.host_policy in host.policies else "--cpu-affinity"
            raise InvalidArg(f"{what} can not be applied: {error.strerror}") from None
        return make()

    return placed


async def _stop_threads(host: Host, instances: list[Instance]) -> None:
    waiting: list[asyncio.Future[None]] = []
    for instance in instances:
        stopped: asyncio.Future[None] = host.loop.create_future()
        instance.stop(_settler(host.loop, stopped))
        waiting.append(stopped)
    await asyncio.gather(*waiting)


def _settler(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]
) -> Callable[..., None]:
    """A callback for another thread that settles `future` on the loop."""

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def callback(error: BaseException | None = None) -> None:
        loop.call_soon_threadsafe(settle, error)

    return callback
