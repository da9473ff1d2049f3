"""Entries of remote_write: secrets become files, and what cannot be is named without them."""

import pytest
from scripts import load

remote_write = load("roles/prometheus/filter_plugins/prometheus_remote_write.py")
URL = "https://metrics.example.com/api/v1/write"
STORE = {
    "name": "store",
    "url": URL,
    "basic_auth": {"username": "pbx", "password": "s3cret"},
    "queue_config": {"max_shards": 4},
}
TENANT = {"name": "tenant", "url": URL, "authorization": {"credentials": "t0ken"}}
PLAIN = {"url": "http://127.0.0.1:8428/api/v1/write"}


def test_the_configuration_names_secrets_and_shows_none():
    store, tenant, plain = remote_write.named_by_file([STORE, TENANT, PLAIN], "/d")
    assert store == {
        **STORE,
        "basic_auth": {"username": "pbx", "password_file": "/d/store-password"},
    }
    assert tenant["authorization"] == {"credentials_file": "/d/tenant-credentials"}
    assert plain == PLAIN


def test_each_secret_that_the_configuration_names_is_there_and_no_other():
    there = ["/d/store-password", "/d/old-password"]
    assert remote_write.files([STORE, TENANT, PLAIN], "/d", there) == [
        {"path": "/d/store-password", "content": "s3cret"},
        {"path": "/d/tenant-credentials", "content": "t0ken"},
        {"path": "/d/old-password", "content": None},
    ]
    assert remote_write.files([], "/d", []) == []


def test_entries_that_are_fine():
    by_file = {"username": "pbx", "password_file": "/etc/store-password"}
    loopback = {**STORE, "name": "near", "url": "http://[::1]:8428/api/v1/write"}
    nameless = {"url": URL, "basic_auth": by_file, "tls_config": {"key_file": "/etc/key.pem"}}
    assert remote_write.problems([STORE, TENANT, PLAIN, loopback, nameless]) == []
    assert remote_write.problems([]) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"name": "a/b"}, "name may have"),
        ({"name": None}, "basic_auth.password needs a name"),
        ({"url": None}, "url must be an address"),
        ({"url": "metrics.example.com"}, "url must be an address"),
        ({"url": "https://pbx:s3cret@metrics.example.com/write"}, "write basic_auth"),
        (
            {"url": "http://192.0.2.9/write"},
            "basic_auth would be readable on the way to http://192",
        ),
        ({"bearer_token": "s3cret"}, "bearer_token would stand in the configuration"),
        ({"tls_config": {"key": "s3cret"}}, "tls_config.key would stand"),
        ({"sigv4": {"secret_key": "s3cret"}}, "sigv4.secret_key would stand"),
        ({"azuread": {"oauth": {"client_secret": "s3cret"}}}, "azuread.oauth.client_secret would"),
    ],
)
def test_a_problem_is_named_without_the_secret(changed, expected):
    (problem,) = remote_write.problems([TENANT, {**STORE, **changed}])
    assert problem.startswith("prometheus_remote_write[1]: ")
    assert expected in problem
    assert "s3cret" not in problem


def test_two_stores_have_two_names():
    (problem,) = remote_write.problems([STORE, {**TENANT, "name": "store"}])
    assert problem == "prometheus_remote_write: 'store' is there twice."
