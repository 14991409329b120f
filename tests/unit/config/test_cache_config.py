"""--cache-config: the settings of both caches, and what is refused by name."""

from __future__ import annotations

import pytest

from triton_async.config.cache import CacheProblem, LibraryCache, RedisConfig, parse_cache
from triton_async.config.redis_defines import REDIS_MAX_TIMEOUT_MS, REDIS_TIMEOUT_MS
from triton_async.config.settings import UsageError, parse

HOST = "redis,host=cache.internal,port=6379"


def redis(*texts: str) -> RedisConfig:
    config = parse_cache(texts).redis
    assert config is not None
    return config


def test_settings_of_triton() -> None:
    found = redis(
        "redis,host=cache.internal", "redis,port=6380", "redis,user=u", "redis,password=p", "redis,db=2",
        "redis,connect_timeout=11", "redis,socket_timeout=12", "redis,wait_timeout=13", "redis,pool_size=4",
        "redis,cert=c.pem", "redis,key=k.pem", "redis,cacert=a.pem", "redis,cacert_dir=/d",
    )  # fmt: skip
    assert found == RedisConfig(
        host="cache.internal", port=6380, user="u", password="p", db=2, connect_timeout=11, socket_timeout=12,
        wait_timeout=13, pool_size=4, cert="c.pem", key="k.pem", cacert="a.pem", cacert_dir="/d",
    )  # fmt: skip
    assert found.tls
    plain = redis(HOST)
    assert (plain.tls, plain.pool_size, plain.socket_timeout) == (False, 1, REDIS_TIMEOUT_MS)
    assert "p" not in repr(redis(HOST + ",password=ppp")).split("port")[0].replace("RedisConfig", "")


def test_other_names_are_libraries_and_native_makes_them_of_the_others() -> None:
    assert parse_cache(["other,size=1", "other,mode=x"]).library == LibraryCache("other", {"size": "1", "mode": "x"})
    for name in ("local", "redis"):
        assert parse_cache([f"{name},native=true", f"{name},any=1"]).library == LibraryCache(name, {"any": "1"})
    assert parse_cache(["local,size=1"]).library is None


def test_settings_of_ours() -> None:
    found = redis("redis,host=unix:/run/redis.sock,ttl=60,namespace=blue-1")
    assert (found.path, found.port, found.ttl, found.namespace) == ("/run/redis.sock", 0, 60, "blue-1")


@pytest.mark.parametrize(
    ("text", "password"),
    [("a,b", "a,b"), ("a=b", "a=b"), ("a,secret=1", "a,secret=1"), ("a,b,db=1", "a,b"), ("a,,port=2", "a,")],
)
def test_passwords_may_have_commas(text: str, password: str) -> None:
    assert redis(f"{HOST},password={text}").password == password


def test_credentials_of_the_environment_stand_behind_those_of_the_command_line() -> None:
    environ = {"TRITONCACHE_REDIS_USERNAME": "eu", "TRITONCACHE_REDIS_PASSWORD": "ep"}
    assert (redis(HOST).with_credentials(environ).user, redis(HOST).with_credentials(environ).password) == ("eu", "ep")
    given = redis(HOST + ",user=u,password=p").with_credentials(environ)
    assert (given.user, given.password) == ("u", "p")
    assert redis(HOST).with_credentials({}) == redis(HOST)


def test_nothing_waits_for_ever() -> None:
    config = parse_cache([HOST + ",socket_timeout=0,wait_timeout=5"])
    assert config.redis is not None
    assert (config.redis.socket_timeout, config.redis.wait_timeout) == (REDIS_MAX_TIMEOUT_MS, 5)
    assert len(config.warnings) == 1
    settings = parse(["--model-repository=/m", f"--cache-config={HOST},socket_timeout=0"])
    assert settings.warnings == config.warnings
    assert settings.response_cache_byte_size == 0


REFUSED = [
    (["redis,host=h"], "didn't specify address"),
    (["redis,port=1"], "didn't specify address"),
    (["redis,host=unix:"], "didn't specify address"),
    (["redis,host=unix:/s,port=1"], "no port then"),
    ([HOST, "local,size=1"], "one response cache only"),
    ([HOST + ",port=0"], "a number from 1 to 65535. Got 0"),
    ([HOST + ",port=65536"], "a number from 1 to 65535. Got 65536"),
    ([HOST + ",db=-1"], "db of the redis cache"),
    ([HOST + ",pool_size=0"], "a number from 1 to 64. Got 0"),
    ([HOST + ",pool_size=65"], "a number from 1 to 64. Got 65"),
    ([HOST + ",socket_timeout=60001"], "a number from 0 to 60000. Got 60001"),
    ([HOST + ",socket_timeout=1s"], "Got 1s"),
    ([HOST + ",namespace=a b"], "namespace of the redis cache"),
    ([HOST + ",cert=c"], "both cert and key"),
    ([HOST + ",sni=n"], "no setting 'sni'"),
    ([HOST + ",size=1"], "no setting 'size'"),
    ([HOST + ",user="], "option format"),
    (["../other,size=1"], "cache"),
    (["local,size=1,size=x"], "Got x"),
]


@pytest.mark.parametrize(("texts", "message"), REFUSED)
def test_what_is_wrong_is_named(texts: list[str], message: str) -> None:
    with pytest.raises(CacheProblem, match=message):
        parse_cache(texts)
    with pytest.raises(UsageError, match=message):
        parse(["--model-repository=/m", *(f"--cache-config={text}" for text in texts)])


@pytest.mark.parametrize("pool_size", [1, 64])
def test_bounds_belong_to_what_is_taken(pool_size: int) -> None:
    assert redis(HOST + f",pool_size={pool_size},socket_timeout={REDIS_MAX_TIMEOUT_MS}").pool_size == pool_size


def test_no_message_tells_a_password() -> None:
    for text in ("redis,password=secret,port", f"{HOST},pasword=x,password=secret,db=x", "redis,password=secret"):
        with pytest.raises(CacheProblem) as caught:
            parse_cache([text])
        assert "secret" not in str(caught.value)
