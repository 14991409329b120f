"""What the names of clients and of ensembles' steps mean where several repositories may have a model of one name.

A model's key is its name, and with --model-namespacing its namespace, which is its repository, with its name behind it.
Loop thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from triton_async.core.entries import ModelEntry
from triton_async.core.files import Root
from triton_async.errors import InvalidArg

SEPARATOR = "::"

# What the repositories hold: key -> those that have it.
There = Mapping[str, Sequence[Root]]


class Namespaces:
    """Of the models that the server knows, by their keys, and of the repositories; both are the owner's, and change."""

    def __init__(self, enabled: bool, models: Mapping[str, ModelEntry], roots: Sequence[Root]) -> None:
        self.enabled = enabled
        self._models = models
        self._roots = roots

    def key(self, root: Root | None, name: str) -> str:
        """Of a model of a repository, or of none."""
        return f"{'' if root is None else root}{SEPARATOR}{name}" if self.enabled else name

    def split(self, key: str) -> tuple[str, str]:
        """The namespace, "" without one, and the name."""
        if self.enabled:
            for namespace in ("", *map(str, self._roots)):
                if key.startswith(namespace + SEPARATOR):
                    return namespace, key[len(namespace) + len(SEPARATOR) :]
        return "", key

    def is_key(self, name: str) -> bool:
        """Whether what a client has sent as a name says the namespace too."""
        return self.enabled and self.split(name) != ("", name)

    def roots_of(self, key: str) -> Sequence[Root]:
        """The repositories that may have the model."""
        if not self.enabled:
            return self._roots
        namespace, _ = self.split(key)
        return [root for root in self._roots if str(root) == namespace]

    def by_key(self, found: Mapping[str, Sequence[Root]]) -> dict[str, list[Root]]:
        """What was found by name, in the order of the repositories and then of the names."""
        if not self.enabled:
            return {name: list(roots) for name, roots in found.items()}
        keys: dict[str, list[Root]] = {}
        for root in self._roots:
            for name in sorted(name for name, roots in found.items() if root in roots):
                keys.setdefault(self.key(root, name), []).append(root)
        return keys

    def ordered(self, keys: Iterable[str]) -> list[str]:
        """As the repository index has them."""
        if not self.enabled:
            return sorted(keys)
        order = {str(root): place for place, root in reversed(list(enumerate(self._roots)))}

        def place(key: str) -> tuple[int, str]:
            namespace, name = self.split(key)
            return order.get(namespace, len(order)), name

        return sorted(keys, key=place)

    def by_name(self, key: str) -> tuple[str, str]:
        """To sort keys by."""
        return self.split(key)[1], key

    def meant(self, name: str) -> list[str]:
        """Keys of the models that a client's name may mean: of those that were loaded, or tried, and not unloaded."""
        if not self.enabled or name in self._models:
            return [name] if name in self._models else []
        return [key for key, entry in self._models.items() if entry.name == name and entry.wanted()]

    def resolve(self, name: str) -> str:
        """The key that a client's name means; the name itself where nothing is known of it. InvalidArg, in Triton's
        words, where it means several.
        """
        keys = self.meant(name)
        if len(keys) > 1:
            raise InvalidArg(
                f"There are {len(keys)} identifiers of model '{name}' in global map, model namespace must be provided "
                "to resolve ambiguity."
            )
        return keys[0] if keys else name

    def step(self, user: str, name: str, there: There | None = None) -> str:
        """Key of the model that a step of ensemble `user` names: the one in its own namespace, else the only one that
        there is; "" where there are none or several. `there`: what the repositories hold, for what is not loaded yet.
        """
        if not self.enabled:
            return name
        own = f"{self.split(user)[0]}{SEPARATOR}{name}"
        keys = self.candidates(name, there or {})
        if own in keys:
            return own
        return next(iter(keys)) if len(keys) == 1 else ""

    def candidates(self, name: str, there: There) -> dict[str, None]:
        """Keys of all models of a name, loaded or `there`, of which a step may mean one."""
        return dict.fromkeys([*self.meant(name), *(key for key in there if self.split(key)[1] == name)])
