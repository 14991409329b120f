"""Model configs as models see them: looking things up in them, and completing them in `auto_complete_config`."""

from __future__ import annotations

import json
from typing import Any


class ModelConfig:
    """The config that `auto_complete_config` gets, changes and returns."""

    def __init__(self, model_config: str) -> None:
        self._model_config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        """The config itself, as JSON has it."""
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """ValueError when the config says more."""
        config = self._model_config
        if config["max_batch_size"] > max_batch_size:
            raise ValueError(
                f"configuration specified max_batch_size {config['max_batch_size']}, but in auto-complete-config "
                f"function for model '{config['name']}' specified max_batch_size {max_batch_size}"
            )
        config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """ValueError when the config has another scheduler."""
        config = self._model_config
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in config:
                raise ValueError(
                    f"Configuration specified scheduling_choice as '{other}', but auto-complete-config function for "
                    f"model '{config['name']}' tries to set scheduling_choice as 'dynamic_batching'"
                )
        config.setdefault("dynamic_batching", {})

    def add_input(self, input: dict[str, Any]) -> None:
        """Adds an input with `name`, `data_type`, `dims` and, maybe, `optional`, or completes one that is there.
        ValueError when the two contradict each other.
        """
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output: dict[str, Any]) -> None:
        """The same for an output."""
        self._add("output", output, ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict: dict[str, Any]) -> None:
        """ValueError for anything but `decoupled`, and when the config says otherwise."""
        config = self._model_config
        if any(key != "decoupled" for key in transaction_policy_dict):
            raise ValueError(
                f"model transaction property in auto-complete-config function for model '{config['name']}' contains "
                "property other than 'decoupled'."
            )
        policy = config.setdefault("model_transaction_policy", {})
        if "decoupled" not in transaction_policy_dict:
            return
        wanted = transaction_policy_dict["decoupled"]
        if policy.get("decoupled", wanted) != wanted:
            raise ValueError(
                f"trying to change decoupled property in auto-complete-config for model '{config['name']}', which is "
                f"already set to '{policy['decoupled']}'."
            )
        policy["decoupled"] = wanted

    def _add(self, kind: str, given: dict[str, Any], known: tuple[str, ...]) -> None:
        model = self._model_config["name"]
        of = f"in auto-complete-config function for model '{model}'"
        if "name" not in given:
            raise ValueError(f"{kind} {of} is missing 'name' property.")
        name = given["name"]
        if any(key not in known for key in given):
            listed = ", ".join(f"'{key}'" for key in known[:-1])
            raise ValueError(f"{kind} '{name}' {of} contains property other than {listed} and '{known[-1]}'.")
        for key in ("data_type", "dims"):
            if key not in given:
                raise ValueError(f"{kind} '{name}' {of} is missing '{key}' property.")
        for current in self._model_config[kind]:
            if current["name"] == name:
                self._check_same(kind, current, given)
                current.update(given)
                return
        self._model_config[kind].append(given)

    def _check_same(self, kind: str, current: dict[str, Any], given: dict[str, Any]) -> None:
        model, name = self._model_config["name"], given["name"]
        if current.get("data_type", "TYPE_INVALID") not in ("TYPE_INVALID", given["data_type"]):
            raise ValueError(
                f"unable to load model '{model}', configuration expects datatype {current['data_type']} for {kind} "
                f"'{name}', model provides {given['data_type']}"
            )
        if current.get("dims") and list(current["dims"]) != list(given["dims"]):
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects dims {given['dims']} but the model "
                f"configuration specifies dims {current['dims']}"
            )
        if given.get("optional", current.get("optional")) != current.get("optional", given.get("optional")):
            raise ValueError(
                f"model '{model}', tensor '{name}': the model expects optional {given['optional']} but the model "
                f"configuration specifies optional {current['optional']}"
            )


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    return _by_name(model_config.get("input", ()), name)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    return _by_name(model_config.get("output", ()), name)


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    """Whether the model may send any number of responses for a request."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def _by_name(properties: Any, name: str) -> dict[str, Any] | None:
    for found in properties:
        if found["name"] == name:
            entry: dict[str, Any] = found
            return entry
    return None
