"""Warm-up: what every instance runs before its model version is ready, all instances at once. Loop thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from triton_async.config.model_config import ModelConfig
from triton_async.core.injection import Injection
from triton_async.core.instances import Instance
from triton_async.core.reactor import Reactor
from triton_async.core.warmup_runs import WarmUpModel
from triton_async.core.warmup_samples import Sample
from triton_async.errors import InvalidArg, ServerError, Unavailable
from triton_async.infer.signature import ModelSignature

log = logging.getLogger("triton_async.core")


class WarmUps:
    """Those that run, of all models of a server."""

    def __init__(self) -> None:
        self._running: set[WarmUpModel] = set()
        self._stopped = False

    def stop(self) -> None:
        """The server ends: what runs is given up as far as engines can, and nothing is begun any more."""
        self._stopped = True
        for model in self._running:
            model.interrupt()

    async def run(  # noqa: PLR0917
        self,
        reactor: Reactor,
        config: ModelConfig,
        signature: ModelSignature,
        instances: Sequence[Instance],
        samples: Sequence[Sample],
        injection: Injection | None = None,
    ) -> None:
        """Runs all samples on each of the instances, which nobody else uses meanwhile. `injection`: what requests of
        sequences get beside their own. InvalidArg, naming sample and
        instance, for the first that fails, once all instances are done.
        """
        if not samples:
            return
        begun = time.monotonic()
        models = [WarmUpModel(reactor, signature, config, instance, injection) for instance in instances]
        results = await asyncio.gather(
            *(self._run_one(model, instance.name, samples) for model, instance in zip(models, instances, strict=True)),
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result
        log.debug(
            "warmed up '%s' version %d in %.3f s: %d samples on %d instances", config.name, signature.model_version,
            time.monotonic() - begun, len(samples), len(instances),
        )  # fmt: skip

    async def _run_one(self, model: WarmUpModel, instance: str, samples: Sequence[Sample]) -> None:
        self._running.add(model)
        try:
            for sample in samples:
                for number in range(sample.count):
                    if self._stopped:
                        raise Unavailable("the server is stopping")
                    log.debug(
                        "model '%s' instance %s is running warmup sample '%s' for iteration %d",
                        model.signature.model_name, instance, sample.name, number + 1,
                    )  # fmt: skip
                    error = await _run_sample(model, sample)
                    if error is not None:
                        raise InvalidArg(
                            f"failed to run warmup sample '{sample.name}': {error.message} (on instance '{instance}')"
                        )
        finally:
            await model.drain()
            model.take_instances()
            self._running.discard(model)


async def _run_sample(model: WarmUpModel, sample: Sample) -> ServerError | None:
    try:
        return await model.run([sample.request(model.signature) for _ in range(sample.batch_size)])
    except ServerError as error:
        return error
