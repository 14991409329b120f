"""Which places in object storage a --model-repository may name."""

from __future__ import annotations

import pytest

from triton_async.config.locations import LocationProblem, has_scheme, parse_location


@pytest.mark.parametrize(("url", "parts"), [
    ("s3://bucket", ("s3", "", "", "bucket", "")),
    ("s3://bucket/", ("s3", "", "", "bucket", "")),
    ("s3://bucket/a/b/", ("s3", "", "", "bucket", "a/b")),
    ("s3://bucket//", ("s3", "", "", "bucket", "")),
    ("s3:///bucket///a//b//", ("s3", "", "", "bucket", "a/b")),
    ("s3://localhost:9000//bucket//a", ("s3", "http://localhost:9000", "", "bucket", "a")),
    ("S3://bucket/a", ("s3", "", "", "bucket", "a")),
    ("s3://localhost:9000/bucket/a", ("s3", "http://localhost:9000", "", "bucket", "a")),
    ("s3://http://10.0.0.1:9000/bucket", ("s3", "http://10.0.0.1:9000", "", "bucket", "")),
    ("s3://https://minio.example:443/bucket/a", ("s3", "https://minio.example:443", "", "bucket", "a")),
    ("s3://https://minio.example/bucket/a", ("s3", "https://minio.example", "", "bucket", "a")),
    ("s3://http://[::1]:9000/bucket/a", ("s3", "http://[::1]:9000", "", "bucket", "a")),
    ("gs://bucket/a", ("gs", "", "", "bucket", "a")),
    ("as://account/container/a/b", ("as", "", "account", "container", "a/b")),
    ("as://account.blob.example/container", ("as", "", "account.blob.example", "container", "")),
    ("as://account/$root/a", ("as", "", "account", "$root", "a")),
])  # fmt: skip
def test_every_form_is_read(url: str, parts: tuple[str, ...]) -> None:
    found = parse_location(url)
    assert (found.scheme, found.endpoint, found.account, found.bucket, found.prefix) == parts
    assert found.url == url


@pytest.mark.parametrize(("url", "says"), [
    ("s3://", "the form is s3://<bucket>"),
    ("s3:///", "the form is"),
    ("s3://host:port/bucket", "the form is"),
    ("s3://http://host:70000/bucket", "the form is"),
    ("s3://http://user:secret@host:9000/bucket", "the form is"),
    ("s3://http://host:9000", "the form is"),
    ("s3://http://host:9000/", "the form is"),
    ("s3://bucket/a/../b", "'..'"),
    ("gs://bucket/a//b", "empty parts"),
    ("s3://bucket/a\nb", "cannot be printed"),
    ("gs://", "the form is gs://"),
    ("gs://-bucket", "the form is"),
    ("as://account", "the form is as://<account>/<container>/<path>"),
    ("as:///container", "the form is"),
    ("as://acc@ount/container", "the form is"),
    ("hdfs://host/a", "hdfs:// are not supported"),
    ("file:///models", "file:// are not supported"),
])  # fmt: skip
def test_what_names_no_place_is_refused_with_the_form(url: str, says: str) -> None:
    assert has_scheme(url)
    with pytest.raises(LocationProblem) as caught:
        parse_location(url)
    assert says in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["/models", "models", "./a://b", "s3:/bucket", ""])
def test_directories_have_no_scheme(path: str) -> None:
    assert not has_scheme(path)
