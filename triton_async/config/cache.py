"""The response cache as --cache-config describes it: in this process, in a Redis server, or a library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from triton_async.addresses import host_of, shown, unix_path
from triton_async.config.paths import safe_name
from triton_async.config.redis_defines import REDIS_MAX_POOL_SIZE, REDIS_MAX_TIMEOUT_MS, REDIS_TIMEOUT_MS
from triton_async.errors import InvalidArg

# Read where the command line names no user or password, as Triton's Redis cache does.
USER_VARIABLE = "TRITONCACHE_REDIS_USERNAME"
PASSWORD_VARIABLE = "TRITONCACHE_REDIS_PASSWORD"

_TEXTS = ("host", "user", "password", "cert", "key", "cacert", "cacert_dir", "namespace")
# Setting -> the lowest and the highest number that it takes.
_NUMBERS = {
    "port": (1, 65535),
    "db": (0, 2**31 - 1),
    "connect_timeout": (0, REDIS_MAX_TIMEOUT_MS),
    "socket_timeout": (0, REDIS_MAX_TIMEOUT_MS),
    "wait_timeout": (0, REDIS_MAX_TIMEOUT_MS),
    "pool_size": (1, REDIS_MAX_POOL_SIZE),
    "ttl": (0, 10**9),
}
_TIMEOUTS = ("connect_timeout", "socket_timeout", "wait_timeout")
# In place of what is built in.
_NATIVE = re.compile(r",native=true(?:,|\Z)")
_ANY = re.compile(r",(?=[a-z_]+=)")
_KNOWN = re.compile(rf",(?=(?:{'|'.join((*_TEXTS, *_NUMBERS))})=)")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z", re.ASCII)


class CacheProblem(Exception):
    """What is wrong with --cache-config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Where the Redis server is, and how long anything may wait for it. Timeouts in milliseconds: `connect_timeout` for
    a connection that is ready for commands, `socket_timeout` for an answer, `wait_timeout` for a connection that is
    free. `ttl`: seconds after which Redis drops an answer; 0: none. `namespace`: stands in all keys. Files are PEM.
    """

    host: str
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    connect_timeout: int = REDIS_TIMEOUT_MS
    socket_timeout: int = REDIS_TIMEOUT_MS
    wait_timeout: int = REDIS_TIMEOUT_MS
    pool_size: int = 1
    ttl: int = 0
    namespace: str = ""
    cert: str = ""
    key: str = ""
    cacert: str = ""
    cacert_dir: str = ""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted: any of the files says so."""
        return bool(self.cert or self.key or self.cacert or self.cacert_dir)

    @property
    def path(self) -> str | None:
        """Of the socket file, for `host=unix:<path>`."""
        return unix_path(self.host)

    @property
    def where(self) -> str:
        """For the log: no name, no password."""
        return shown(self.host, self.port)

    def with_credentials(self, environ: Mapping[str, str]) -> RedisConfig:
        """With user and password from the environment where the command line has none."""
        return replace(
            self,
            user=self.user or environ.get(USER_VARIABLE, ""),
            password=self.password or environ.get(PASSWORD_VARIABLE, ""),
        )


@dataclass(frozen=True, slots=True)
class LibraryCache:
    """A cache that is `<--cache-directory>/<name>/libtritoncache_<name>.so`, and what it is told."""

    name: str
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """One of these: bytes of the local cache, a Redis server, a library. `warnings`: lines for the log."""

    local_nbytes: int = 0
    redis: RedisConfig | None = None
    library: LibraryCache | None = None
    warnings: tuple[str, ...] = ()


def parse_cache(texts: Sequence[str]) -> CacheConfig:
    """`<cache>,<setting>=<value>[,<setting>=<value>...]` of each text. CacheProblem.

    local and redis are built in, unless they are to be a library's: `native=true`.
    """
    name = ""
    settings: dict[str, str] = {}
    native = any(_NATIVE.search(text) for text in texts)
    for text in texts:
        cache, _, rest = text.partition(",")
        if not cache or "=" not in rest or "=" in cache:
            raise CacheProblem(f"--cache-config option format is '<cache name>,<setting>=<value>'. Got {_bare(text)}")
        if name not in ("", cache):
            raise CacheProblem(f"there can be one response cache only, and both {name} and {cache} are asked for")
        name = cache
        read = _read_local if cache == "local" else _read_redis
        for setting, value in _settings(text, rest):
            if cache in ("local", "redis") and not native:
                read(cache, setting, value)
            settings[setting] = value
    if native or name not in ("local", "redis"):
        return _library(name, settings)
    return _local(settings) if name == "local" else _redis(settings)


def _library(name: str, settings: dict[str, str]) -> CacheConfig:
    try:
        safe_name(name, "cache")
    except InvalidArg as error:
        raise CacheProblem(error.message) from None
    return CacheConfig(library=LibraryCache(name, {key: settings[key] for key in settings if key != "native"}))


def _settings(text: str, rest: str) -> list[tuple[str, str]]:
    """A comma ends a value only where another setting follows, and a password only where one follows that there is."""
    found: list[tuple[str, str]] = []
    while rest:
        ends = _KNOWN if rest.startswith("password=") else _ANY
        part, rest = (*ends.split(rest, maxsplit=1), "")[:2]
        setting, _, value = part.partition("=")
        if not setting or not value:
            raise CacheProblem(f"--cache-config option format is '<cache name>,<setting>=<value>'. Got {_bare(text)}")
        found.append((setting, value))
    return found


def _bare(text: str) -> str:
    """Without a password."""
    return re.sub(r"(password=).*", r"\1...", text)


def _read_local(cache: str, setting: str, value: str) -> None:
    if setting != "size":
        raise CacheProblem(f"the local cache has no setting '{setting}', but size")
    if not re.fullmatch("[0-9]{1,18}", value, re.ASCII) or not int(value):
        raise CacheProblem(f"the size of the local cache must be a positive number of bytes. Got {value}")


def _read_redis(cache: str, setting: str, value: str) -> None:
    if setting in _NUMBERS:
        low, high = _NUMBERS[setting]
        if not re.fullmatch("[0-9]{1,10}", value, re.ASCII) or not low <= int(value) <= high:
            raise CacheProblem(f"the {setting} of the redis cache must be a number from {low} to {high}. Got {value}")
    elif setting == "sni":
        raise CacheProblem("the redis cache has no setting 'sni': the certificate must be for the name in host")
    elif setting not in _TEXTS:
        known = ", ".join(sorted((*_TEXTS, *_NUMBERS)))
        raise CacheProblem(f"the redis cache has no setting '{setting}', but {known}")
    elif setting == "namespace" and not _NAMESPACE.match(value):
        raise CacheProblem("the namespace of the redis cache must be 1 to 64 letters, digits, '.', '_' or '-'")


def _local(settings: Mapping[str, str]) -> CacheConfig:
    return CacheConfig(local_nbytes=int(settings["size"]))


def _redis(settings: Mapping[str, str]) -> CacheConfig:
    host = settings.get("host", "")
    path = unix_path(host)
    if not host or (path is None and (not host_of(host) or "port" not in settings)) or path == "":
        raise CacheProblem(
            "Failed to initialize RedisCache, didn't specify address. Must at a minimum specify 'host' and 'port' in "
            "the configuration - e.g. tritonserver --cache-config redis,host=redis --cache-config redis,port=6379 "
            "--model-repository=/models ..."
        )
    if path is not None and "port" in settings:
        raise CacheProblem("the redis cache has a socket file as its host, and no port then")
    if bool(settings.get("cert")) != bool(settings.get("key")):
        raise CacheProblem("the redis cache needs both cert and key, or none of them")
    converted: dict[str, Callable[[str], object]] = dict.fromkeys(_NUMBERS, int)
    values: dict[str, object] = {name: converted.get(name, str)(text) for name, text in settings.items()}
    warnings = []
    for name in _TIMEOUTS:
        if values.get(name) == 0:
            values[name] = REDIS_MAX_TIMEOUT_MS
            warnings.append(
                f"--cache-config=redis,{name}=0 would wait for ever: {REDIS_MAX_TIMEOUT_MS} ms are taken instead"
            )
    return CacheConfig(redis=RedisConfig(**values), warnings=tuple(warnings))  # type: ignore[arg-type]
