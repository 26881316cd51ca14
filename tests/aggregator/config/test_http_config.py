"""The table [http]: without it there is no HTTP edge, and what cannot work is told by the setting's name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from config_sample import GOOD, KEYS

from tallystick_aggregator.api.http.limits import HttpLimits
from tallystick_aggregator.chain.settings import ConfigurationError
from tallystick_aggregator.listing import ListingLimits
from tallystick_aggregator.runtime.config.file import Config
from tallystick_aggregator.runtime.config.http import HttpSettings

Load = Callable[[str], Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads GOOD with this before its first table of chains."""
    for name, key in KEYS.items():
        file = tmp_path / f"{name}.key"
        file.write_text(key)
        file.chmod(0o600)

    def write_and_load(tables: str) -> Config:
        path = tmp_path / "aggregator.toml"
        path.write_text(GOOD.replace("[[chain]]", f"{tables}\n[[chain]]", 1))
        return Config.load(path)

    return write_and_load


def test_there_is_no_http_edge_without_its_table(load: Load) -> None:
    assert load("").http is None


def test_an_empty_table_is_loopback_closed_to_strangers_with_the_usual_limits(load: Load) -> None:
    assert load("[http]").http == HttpSettings("127.0.0.1:8402", limits=HttpLimits())
    assert load("[http]").exact_open is None


def test_settings_are_read(load: Load) -> None:
    http = load('[http]\nlisten = "127.0.0.1:0"\nbody_bytes_max = 2048\nsettle_s_max = 9').http
    assert http is not None
    assert (http.listen, http.limits.body_bytes_max, http.limits.settle_s_max) == (
        "127.0.0.1:0",
        2_048,
        9.0,
    )


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('listen = "8402"', "http.listen: got '8402', allowed HOST:PORT, such as 127.0.0.1:8402"),
        ('listen = "0.0.0.0:8402"', "http.listen: 0.0.0.0:8402 can be reached from outside without TLS"),
        ("port = 1", "http.port: got it, but there is no such setting"),
        ("exact_open = true", "http.exact_open: got it, but there is no such setting"),
        ("body_bytes_max = 1", "http.body_bytes_max: got 1, allowed 1024 to 16777216"),
        ("requests_max = 0", "http.requests_max: got 0, allowed 1 to "),
        ("requests_max = 9", "http.requests_per_seller_max: got 2048, allowed 1 to 9"),
    ],
)
def test_what_cannot_work_is_told_by_the_settings_name(load: Load, table: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(f"[http]\n{table}")
    assert told in str(raised.value)


@pytest.mark.usefixtures("load")
def test_beyond_loopback_it_may_listen_behind_something_that_does_tls(tmp_path: Path) -> None:
    text = GOOD.replace("[store]", "insecure = true\n\n[store]", 1)
    path = tmp_path / "aggregator.toml"
    path.write_text(text.replace("[[chain]]", '[http]\nlisten = "0.0.0.0:8402"\n[[chain]]', 1))
    config = Config.load(path)
    assert config.http is not None
    assert config.http.listen == "0.0.0.0:8402"


def test_the_list_of_resources_has_limits(load: Load) -> None:
    assert load("").listing_limits == ListingLimits()
    limits = load("[discovery]\nitems_per_seller_max = 5\nitem_bytes_max = 1000\nbytes_max = 2000").listing_limits
    assert limits == ListingLimits(5, 1_000, 2_000)
    for odd, named in (
        ("items_per_seller_max = 0", "discovery.items_per_seller_max: got 0, allowed 1 to 10000"),
        ("bytes_max = 1", "discovery.bytes_max: got 1, allowed 1024 to 268435456"),
        ("origins = []", "discovery.origins: got it, but there is no such setting"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            load(f"[discovery]\n{odd}")
