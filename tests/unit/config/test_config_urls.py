"""Addresses of other programs in the configuration."""

from __future__ import annotations

import pytest

from manahsm.config.kinds import SecretText
from manahsm.config.load import load_config
from manahsm.config.options import OptionError
from manahsm.config.urls import SecretUrl, Url
from manahsm.errors import ConfigError

GOOD = ("http://127.0.0.1:9093", "https://example.org/hooks/a?b=c", "http://[::1]:9093/prefix")
BAD = (
    "",
    "signer.example",
    "ftp://example.org",
    "http://",
    "http:///path",
    "http://a:99999/",
    "http://a b/",
    "http://é.org",
)


@pytest.mark.parametrize("url", GOOD)
def test_http_addresses_are_taken(url: str) -> None:
    assert Url().parse(url) == url
    assert SecretUrl().parse(url).reveal() == url


@pytest.mark.parametrize("url", [*BAD, 7, None])
@pytest.mark.parametrize("kind", [Url(), SecretUrl()])
def test_what_is_no_address_is_refused_and_a_secret_one_is_not_repeated(kind: Url | SecretUrl, url: object) -> None:
    with pytest.raises(OptionError) as caught:
        kind.parse(url)

    assert not isinstance(kind, SecretText) or not url or str(url) not in str(caught.value)


def test_a_slash_at_the_end_makes_no_difference() -> None:
    assert Url().parse("http://127.0.0.1:9093/") == "http://127.0.0.1:9093"


def test_a_password_in_an_address_that_is_shown_is_refused() -> None:
    with pytest.raises(OptionError, match="must not hold a user or a password"):
        Url().parse("http://user:hunter2@127.0.0.1:9093")


def test_the_address_of_a_webhook_is_shown_nowhere() -> None:
    config = load_config(
        {"enabled": False, "monitoring": {"alerts": {"webhook_url": "https://example.org/open-sesame"}}}, environ={}
    )

    assert config.monitoring.alerts.webhook_url is not None
    assert "sesame" not in repr(config) + str(config.describe())


def test_a_fault_is_told_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"hsm\.monitoring\.alerts\.alertmanager_url: must be an address"):
        load_config({"enabled": False, "monitoring": {"alerts": {"alertmanager_url": "localhost"}}}, environ={})
